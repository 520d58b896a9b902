// inference/kernels_inl.h - the kernels, over a vector of 16 floats.
//
// Included inside an anonymous namespace by each kernels_*.cc, which has defined the vector
// operations, kTileTokens and kTilePanels (how much of the output a tile keeps in
// registers). Nothing here depends on those two but speed: every output element is the same
// chain of operations in every tile shape.

constexpr uint32_t kGroupBytes = 64;     // 16 rows x 4 columns
constexpr uint32_t kU8BlockBytes = 512;  // 16 rows x 32 columns
constexpr uint32_t kU4BlockBytes = 256;
constexpr uint32_t kU5BlockBytes = 320;
constexpr uint32_t kU6BlockBytes = 384;
// How far ahead of a panel's weights to fetch: farther, and two panels with their scales push
// each other out of the L1 cache; nearer, and memory is too late.
constexpr uint32_t kPrefetchBytes = 4096;
constexpr uint32_t kFloatTilePanels = 4;  // for one token: enough chains to hide latency

inline uint32_t RoundUp16(uint32_t n) {
  return (n + 15) & ~15u;
}

// ---- Rounding inputs ----

void QuantizeToken(const Activations& a, uint32_t token) {
  const float* x = a.values + token * a.value_stride;
  const uint32_t blocks = a.columns / 32;
  const size_t at = static_cast<size_t>(token) * a.columns;
  const size_t block_at = static_cast<size_t>(token) * blocks;
  const float steps = a.two_planes ? 127.0f * 128.0f : 127.0f;
  for (uint32_t b = 0; b < blocks; ++b) {
    const Floats x0 = Load(x + b * 32), x1 = Load(x + b * 32 + 16);
    const float most = Largest(Max(Absolute(x0), Absolute(x1)));
    // Blocks too small to matter count as zero; infinities and NaN (a broken model) too.
    const bool usable = most > 1e-30f && most < 3e38f;
    const Floats inverse = Broadcast(usable ? steps / most : 0.0f);
    const float scale = usable ? most / steps : 0.0f;
    // Clamping changes no number; it turns NaN into one.
    auto round = [&](const Floats& v) {
      const Floats clamped = Min(Max(v, Broadcast(-most)), Broadcast(most));
      return RoundToInt(usable ? Multiply(clamped, inverse) : Zero());
    };
    const Ints q[2] = {round(x0), round(x1)};
    int32_t sum = 0;
    for (uint32_t i = 0; i < 2; ++i) {
      Ints high = q[i];
      int32_t low_sum = 0;
      if (a.two_planes) {
        high = ShiftRight<7>(AddInt(q[i], BroadcastInt(64)));
        const Ints low = SubtractInt(q[i], ShiftLeft<7>(high));
        PutBytes(a.low + at + b * 32 + i * 16, low);
        low_sum = SumInt(low);
      }
      PutBytes(a.high + at + b * 32 + i * 16, high);
      const int32_t high_sum = SumInt(high);
      a.high_sums[(block_at + b) * 2 + i] = high_sum;
      a.low_sums[(block_at + b) * 2 + i] = low_sum;
      sum += a.two_planes ? high_sum * 128 + low_sum : high_sum;
    }
    a.scales[block_at + b] = scale;
    a.sums[block_at + b] = scale * static_cast<float>(sum);
  }
}

// ---- Multiplication by quantized weights ----

struct TileArgs {
  const uint8_t* weights[2];  // of each panel
  const uint16_t* scales[2];
  const uint16_t* minima[2];    // null if the format has none
  const int8_t* sub_scales[2];  // null unless it is a K format
  const int8_t* sub_minima[2];
  uint32_t blocks;
  int32_t zero;
  const Activations* a;
  uint32_t token;  // the first of the tile
  Store store;
  float* out;  // of the first token and row
  size_t stride;
};

constexpr uint32_t BlockBytes(PackedType type) {
  return type == PackedType::kU8   ? kU8BlockBytes
         : type == PackedType::kU5 ? kU5BlockBytes
         : type == PackedType::kU6 ? kU6BlockBytes
                                   : kU4BlockBytes;
}

// Group `kGroup` of a block: 16 rows x 4 columns as unsigned bytes.
template <PackedType kType, uint32_t kGroup>
inline Bytes64 LoadGroupAt(const uint8_t* block) {
  if constexpr (kType == PackedType::kU8) {
    return LoadBytes(block + kGroup * kGroupBytes);
  } else {
    const Bytes64 pair = LoadBytes(block + (kGroup % 4) * kGroupBytes);
    const Bytes64 nibble = kGroup < 4 ? LowNibbles(pair) : HighNibbles(pair);
    if constexpr (kType == PackedType::kNonLinear4) {
      return LookUp(kNonLinearBytes, nibble);
    } else if constexpr (kType == PackedType::kU5) {
      const Bytes64 bits = LoadBytes(block + kU4BlockBytes);
      return OrBytes(nibble, ShiftedBits<4 - static_cast<int>(kGroup), 0x10>(bits));
    } else if constexpr (kType == PackedType::kU6) {
      const Bytes64 bits = LoadBytes(block + kU4BlockBytes + kGroup / 4 * kGroupBytes);
      return OrBytes(nibble, ShiftedBits<4 - 2 * static_cast<int>(kGroup % 4), 0x30>(bits));
    } else {
      return nibble;
    }
  }
}

// `g` is a constant once the loop around is unrolled.
template <PackedType kType>
inline __attribute__((always_inline)) Bytes64 LoadGroup(const uint8_t* block, uint32_t g) {
  switch (g) {
    case 0:
      return LoadGroupAt<kType, 0>(block);
    case 1:
      return LoadGroupAt<kType, 1>(block);
    case 2:
      return LoadGroupAt<kType, 2>(block);
    case 3:
      return LoadGroupAt<kType, 3>(block);
    case 4:
      return LoadGroupAt<kType, 4>(block);
    case 5:
      return LoadGroupAt<kType, 5>(block);
    case 6:
      return LoadGroupAt<kType, 6>(block);
    default:
      return LoadGroupAt<kType, 7>(block);
  }
}

inline Floats LoadScale(const uint16_t* halves, const int8_t* integers, uint32_t block,
                        uint32_t part, uint32_t parts) {
  if (integers == nullptr) return LoadHalf(halves + block * 16);
  return Multiply(LoadSmall(integers + (block * parts + part) * 16),
                  LoadHalf(halves + block / 8 * 16));
}

// kParts: how many scales a block has.
template <PackedType kType, uint32_t kParts, bool kTwoPlanes, uint32_t kPanels, uint32_t kTokens>
void QuantizedTile(const TileArgs& args) {
  constexpr uint32_t kBlockBytes = BlockBytes(kType);
  constexpr uint32_t kGroups = 8 / kParts;  // of a part
  // With few outputs both planes are summed side by side: one pass over the weights.
  constexpr bool kSideBySide = kTwoPlanes && kPanels * kTokens <= 4;
  const Activations& a = *args.a;
  const uint32_t blocks = args.blocks;
  const int8_t* high[kTokens];
  const int8_t* low[kTokens];
  size_t at[kTokens];
  for (uint32_t m = 0; m < kTokens; ++m) {
    const size_t token = args.token + m;
    high[m] = a.high + token * a.columns;
    low[m] = a.low + token * a.columns;
    at[m] = token * blocks;
  }
  // Minus the zero point times the sum of the integers that a part multiplies.
  auto start_of = [&](const int32_t* sums, uint32_t m, uint32_t b, uint32_t part) {
    const int32_t* pair = sums + (at[m] + b) * 2;
    return BroadcastInt(-args.zero * (kParts == 2 ? pair[part] : pair[0] + pair[1]));
  };
  Floats total[kPanels][kTokens];
#pragma GCC unroll 8
  for (uint32_t p = 0; p < kPanels; ++p) {
#pragma GCC unroll 8
    for (uint32_t m = 0; m < kTokens; ++m) total[p][m] = Zero();
  }
  for (uint32_t b = 0; b < blocks; ++b) {
    if constexpr (kTokens <= 2) {
#pragma GCC unroll 8
      for (uint32_t p = 0; p < kPanels; ++p) {  // weights come from memory: run ahead
#pragma GCC unroll 8
        for (uint32_t line = 0; line < kBlockBytes; line += 64) {
          Prefetch(args.weights[p] + b * kBlockBytes + kPrefetchBytes + line);
        }
      }
    }
#pragma GCC unroll 2
    for (uint32_t part = 0; part < kParts; ++part) {
      const uint32_t first = part * kGroups;
      Ints sum[kPanels][kTokens], side[kPanels][kTokens];
#pragma GCC unroll 8
      for (uint32_t m = 0; m < kTokens; ++m) {
        const Ints start = start_of(a.high_sums, m, b, part);
        const Ints side_start = kSideBySide ? start_of(a.low_sums, m, b, part) : BroadcastInt(0);
#pragma GCC unroll 8
        for (uint32_t p = 0; p < kPanels; ++p) {
          sum[p][m] = start;
          side[p][m] = side_start;
        }
      }
#pragma GCC unroll 8
      for (uint32_t i = 0; i < kGroups; ++i) {
        const uint32_t g = first + i;
        Bytes64 w[kPanels];
#pragma GCC unroll 8
        for (uint32_t p = 0; p < kPanels; ++p) {
          w[p] = LoadGroup<kType>(args.weights[p] + b * kBlockBytes, g);
        }
#pragma GCC unroll 8
        for (uint32_t m = 0; m < kTokens; ++m) {
#pragma GCC unroll 8
          for (uint32_t p = 0; p < kPanels; ++p) {
            sum[p][m] = Dot(sum[p][m], w[p], high[m] + b * 32 + g * 4);
            if constexpr (kSideBySide) {
              side[p][m] = Dot(side[p][m], w[p], low[m] + b * 32 + g * 4);
            }
          }
        }
      }
      if constexpr (kTwoPlanes) {
#pragma GCC unroll 8
        for (uint32_t m = 0; m < kTokens; ++m) {
          const Ints start = kSideBySide ? BroadcastInt(0) : start_of(a.low_sums, m, b, part);
#pragma GCC unroll 8
          for (uint32_t p = 0; p < kPanels; ++p) {
            sum[p][m] = AddInt(ShiftLeft<7>(sum[p][m]), kSideBySide ? side[p][m] : start);
          }
        }
      }
      if constexpr (kTwoPlanes && !kSideBySide) {
        // Else the compiler keeps the weights of the first round in registers and spills sums.
        asm volatile("" ::: "memory");
#pragma GCC unroll 8
        for (uint32_t i = 0; i < kGroups; ++i) {
          const uint32_t g = first + i;
          Bytes64 w[kPanels];
#pragma GCC unroll 8
          for (uint32_t p = 0; p < kPanels; ++p) {
            w[p] = LoadGroup<kType>(args.weights[p] + b * kBlockBytes, g);
          }
#pragma GCC unroll 8
          for (uint32_t m = 0; m < kTokens; ++m) {
#pragma GCC unroll 8
            for (uint32_t p = 0; p < kPanels; ++p) {
              sum[p][m] = Dot(sum[p][m], w[p], low[m] + b * 32 + g * 4);
            }
          }
        }
      }
#pragma GCC unroll 8
      for (uint32_t p = 0; p < kPanels; ++p) {
        const Floats scale = LoadScale(args.scales[p], args.sub_scales[p], b, part, kParts);
#pragma GCC unroll 8
        for (uint32_t m = 0; m < kTokens; ++m) {
          const Floats factor = Multiply(scale, Broadcast(a.scales[at[m] + b]));
          total[p][m] = MultiplyAdd(ToFloat(sum[p][m]), factor, total[p][m]);
        }
      }
    }
#pragma GCC unroll 8
    for (uint32_t p = 0; p < kPanels; ++p) {
      if (args.minima[p] != nullptr) {
        const Floats minimum = LoadScale(args.minima[p], args.sub_minima[p], b, 0, 1);
#pragma GCC unroll 8
        for (uint32_t m = 0; m < kTokens; ++m) {
          total[p][m] = MultiplyAdd(minimum, Broadcast(a.sums[at[m] + b]), total[p][m]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (uint32_t m = 0; m < kTokens; ++m) {
#pragma GCC unroll 8
    for (uint32_t p = 0; p < kPanels; ++p) {
      float* out = args.out + m * args.stride + p * 16;
      Put(out, args.store == Store::kAdd ? Add(Load(out), total[p][m]) : total[p][m]);
    }
  }
}

// How many tokens at once multiply weights as they are stored; with more, they are first
// unpacked to bytes. Each number is code of its own, so the rarer formats have few.
constexpr uint32_t DirectTokens(PackedType type) {
  return type == PackedType::kU8 || type == PackedType::kU4 ? kTileTokens : 2;
}

template <PackedType kType, uint32_t kParts, bool kTwoPlanes, uint32_t kPanels,
          uint32_t kTokens = DirectTokens(kType)>
void QuantizedTileOf(uint32_t tokens, const TileArgs& args) {
  if constexpr (kTokens > 1) {
    if (tokens < kTokens)
      return QuantizedTileOf<kType, kParts, kTwoPlanes, kPanels, kTokens - 1>(tokens, args);
  }
  QuantizedTile<kType, kParts, kTwoPlanes, kPanels, kTokens>(args);
}

template <PackedType kType, uint32_t kParts, uint32_t kPanels>
void QuantizedTiles(const Activations& a, TileArgs args) {
  constexpr uint32_t kStep = DirectTokens(kType);
  for (uint32_t token = 0; token < a.tokens; token += kStep) {
    const uint32_t left = a.tokens - token;
    const uint32_t tokens = left < kStep ? left : kStep;
    args.token = token;
    a.two_planes ? QuantizedTileOf<kType, kParts, true, kPanels>(tokens, args)
                 : QuantizedTileOf<kType, kParts, false, kPanels>(tokens, args);
    args.out += kStep * args.stride;
  }
}

template <PackedType kType>
void Unpack(const uint8_t* in, uint32_t blocks, uint8_t* out) {
  for (uint32_t b = 0; b < blocks; ++b) {
#pragma GCC unroll 8
    for (uint32_t g = 0; g < 8; ++g) PutUnsigned(out + g * kGroupBytes, LoadGroup<kType>(in, g));
    in += BlockBytes(kType);
    out += kU8BlockBytes;
  }
}

template <PackedType kType, uint32_t kParts>
void MultiplyQuantized(const PackedMatrix& w, uint32_t begin, uint32_t end, const Activations& a,
                       Store store, float* out, size_t stride, std::byte* scratch) {
  // Many tokens use the same weights again and again: unpack them once, into the L1 cache.
  const bool unpack = kType != PackedType::kU8 && a.tokens > DirectTokens(kType);
  const uint32_t blocks = w.blocks();
  const size_t halves = size_t{w.columns} / w.columns_per_scale() * 16;  // of a panel
  for (uint32_t panel = begin; panel < end;) {
    const uint32_t panels = end - panel >= kTilePanels ? kTilePanels : 1;
    TileArgs args{};
    args.blocks = blocks;
    args.zero = w.zero;
    args.a = &a;
    args.store = store;
    args.out = out + static_cast<size_t>(panel) * 16;
    args.stride = stride;
    for (uint32_t p = 0; p < panels; ++p) {
      const size_t block_at = static_cast<size_t>(panel + p) * blocks * 16;
      args.weights[p] = w.weights + (panel + p) * w.panel_bytes;
      args.scales[p] = w.scales + (panel + p) * halves;
      if (w.minima != nullptr) args.minima[p] = w.minima + (panel + p) * halves;
      if (w.sub_scales != nullptr) args.sub_scales[p] = w.sub_scales + block_at * kParts;
      if (w.sub_minima != nullptr) args.sub_minima[p] = w.sub_minima + block_at;
      if (unpack) {
        auto* bytes = reinterpret_cast<uint8_t*>(scratch) + p * blocks * kU8BlockBytes;
        Unpack<kType>(args.weights[p], blocks, bytes);
        args.weights[p] = bytes;
      }
    }
    if (unpack) {
      panels == 1 ? QuantizedTiles<PackedType::kU8, kParts, 1>(a, args)
                  : QuantizedTiles<PackedType::kU8, kParts, kTilePanels>(a, args);
    } else {
      panels == 1 ? QuantizedTiles<kType, kParts, 1>(a, args)
                  : QuantizedTiles<kType, kParts, kTilePanels>(a, args);
    }
    panel += panels;
  }
}

// ---- Multiplication by float weights ----

template <PackedType kType>
inline Floats LoadWeights(const uint8_t* at) {
  if constexpr (kType == PackedType::kF32) return Load(reinterpret_cast<const float*>(at));
  if constexpr (kType == PackedType::kF16) return LoadHalf(reinterpret_cast<const uint16_t*>(at));
  return LoadBrain(reinterpret_cast<const uint16_t*>(at));
}

template <PackedType kType, uint32_t kPanels, uint32_t kTokens>
void FloatTile(const PackedMatrix& w, uint32_t panel, const Activations& a, uint32_t token,
               Store store, float* out, size_t stride) {
  constexpr uint32_t kColumnBytes = kType == PackedType::kF32 ? 64 : 32;
  Floats total[kPanels][kTokens];
  const float* x[kTokens];
#pragma GCC unroll 8
  for (uint32_t m = 0; m < kTokens; ++m) {
    x[m] = a.values + (token + m) * a.value_stride;
#pragma GCC unroll 8
    for (uint32_t p = 0; p < kPanels; ++p) total[p][m] = Zero();
  }
  const uint8_t* weights = w.weights + panel * w.panel_bytes;
  for (uint32_t k = 0; k < w.columns; ++k) {
    Floats column[kPanels];
#pragma GCC unroll 8
    for (uint32_t p = 0; p < kPanels; ++p) {
      column[p] = LoadWeights<kType>(weights + p * w.panel_bytes + k * kColumnBytes);
    }
#pragma GCC unroll 8
    for (uint32_t m = 0; m < kTokens; ++m) {
      const Floats value = Broadcast(x[m][k]);
#pragma GCC unroll 8
      for (uint32_t p = 0; p < kPanels; ++p) {
        total[p][m] = MultiplyAdd(column[p], value, total[p][m]);
      }
    }
  }
#pragma GCC unroll 8
  for (uint32_t m = 0; m < kTokens; ++m) {
#pragma GCC unroll 8
    for (uint32_t p = 0; p < kPanels; ++p) {
      float* at = out + (token + m) * stride + (panel + p) * size_t{16};
      Put(at, store == Store::kAdd ? Add(Load(at), total[p][m]) : total[p][m]);
    }
  }
}

template <PackedType kType>
void MultiplyFloats(const PackedMatrix& w, uint32_t begin, uint32_t end, const Activations& a,
                    Store store, float* out, size_t stride) {
  uint32_t panel = begin;
  for (; panel + kFloatTilePanels <= end; panel += kFloatTilePanels) {
    uint32_t token = 0;
    for (; token + 4 <= a.tokens; token += 4) {
      FloatTile<kType, kFloatTilePanels, 4>(w, panel, a, token, store, out, stride);
    }
    for (; token < a.tokens; ++token) {
      FloatTile<kType, kFloatTilePanels, 1>(w, panel, a, token, store, out, stride);
    }
  }
  for (; panel < end; ++panel) {
    uint32_t token = 0;
    for (; token + 4 <= a.tokens; token += 4) {
      FloatTile<kType, 1, 4>(w, panel, a, token, store, out, stride);
    }
    for (; token < a.tokens; ++token) {
      FloatTile<kType, 1, 1>(w, panel, a, token, store, out, stride);
    }
  }
}

void MultiplyAny(const PackedMatrix& w, uint32_t begin, uint32_t end, const Activations& a,
                 Store store, float* out, size_t stride, std::byte* scratch) {
  switch (w.type) {
    case PackedType::kF32:
      return MultiplyFloats<PackedType::kF32>(w, begin, end, a, store, out, stride);
    case PackedType::kF16:
      return MultiplyFloats<PackedType::kF16>(w, begin, end, a, store, out, stride);
    case PackedType::kBF16:
      return MultiplyFloats<PackedType::kBF16>(w, begin, end, a, store, out, stride);
    case PackedType::kU8:
      return MultiplyQuantized<PackedType::kU8, 1>(w, begin, end, a, store, out, stride, scratch);
    case PackedType::kU4:
      return MultiplyQuantized<PackedType::kU4, 1>(w, begin, end, a, store, out, stride, scratch);
    case PackedType::kNonLinear4:
      return MultiplyQuantized<PackedType::kNonLinear4, 1>(w, begin, end, a, store, out, stride,
                                                           scratch);
    case PackedType::kU5:
      return MultiplyQuantized<PackedType::kU5, 1>(w, begin, end, a, store, out, stride, scratch);
    case PackedType::kU6:
      return MultiplyQuantized<PackedType::kU6, 2>(w, begin, end, a, store, out, stride, scratch);
  }
}

// ---- Element-wise ----

void RmsNorm(const float* x, const float* weight, uint32_t count, float epsilon, float* out) {
  const uint32_t padded = RoundUp16(count);
  Floats squares = Zero();
  for (uint32_t i = 0; i < padded; i += 16) {
    const Floats v = Load(x + i);
    squares = MultiplyAdd(v, v, squares);
  }
  const float mean = Sum(squares) / static_cast<float>(count);
  const Floats factor = Broadcast(1.0f / __builtin_sqrtf(mean + epsilon));
  for (uint32_t i = 0; i < padded; i += 16) {
    Put(out + i, Multiply(Multiply(Load(x + i), factor), Load(weight + i)));
  }
}

// e^x for x in [-87, 87] (clamped), within about 2 units in the last place: Cody and Waite's
// reduction by a power of two and the polynomial of Cephes' expf.
inline Floats Exp(Floats x) {
  x = Min(Max(x, Broadcast(-87.0f)), Broadcast(87.0f));
  const Floats magic = Broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to whole
  const Floats n = Subtract(MultiplyAdd(x, Broadcast(1.44269504f), magic), magic);
  Floats r = MultiplyAdd(n, Broadcast(-0.693359375f), x);
  r = MultiplyAdd(n, Broadcast(2.12194440e-4f), r);
  Floats p = Broadcast(1.9875691500e-4f);
  p = MultiplyAdd(p, r, Broadcast(1.3981999507e-3f));
  p = MultiplyAdd(p, r, Broadcast(8.3334519073e-3f));
  p = MultiplyAdd(p, r, Broadcast(4.1665795894e-2f));
  p = MultiplyAdd(p, r, Broadcast(1.6666665459e-1f));
  p = MultiplyAdd(p, r, Broadcast(5.0000001201e-1f));
  p = MultiplyAdd(p, Multiply(r, r), r);
  return ScaleByPowerOfTwo(Add(p, Broadcast(1.0f)), n);
}

void SiluMultiply(float* gate, const float* up, uint32_t count) {
  for (uint32_t i = 0; i < count; i += 16) {
    const Floats x = Load(gate + i);
    const Floats e = Exp(Subtract(Zero(), x));
    Put(gate + i, Multiply(Divide(x, Add(e, Broadcast(1.0f))), Load(up + i)));
  }
}

void ToHalf(const float* in, uint32_t count, uint16_t* out) {
  for (uint32_t i = 0; i < count; i += 16) PutHalf(out + i, Load(in + i));
}

// ---- Attention ----

template <bool kHalf>
inline Floats LoadElements(const std::byte* base, size_t index) {
  if constexpr (kHalf) return LoadHalf(reinterpret_cast<const uint16_t*>(base) + index);
  return Load(reinterpret_cast<const float*>(base) + index);
}

// Scores of kQueries queries with the first `slots` slots; q . k, not yet scaled.
template <bool kHalf, uint32_t kQueries>
void ScoreTile(const AttentionJob& job, uint32_t query, uint32_t slots) {
  const float* q[kQueries];
  for (uint32_t i = 0; i < kQueries; ++i) q[i] = job.q[query + i];
  for (uint32_t at = 0; at < slots; at += kSlotsPerBlock) {
    const std::byte* block = job.blocks[at / kSlotsPerBlock];
    Floats sum[kQueries];
#pragma GCC unroll 8
    for (uint32_t i = 0; i < kQueries; ++i) sum[i] = Zero();
    for (uint32_t d = 0; d < job.head_size; ++d) {
      const Floats k = LoadElements<kHalf>(block, size_t{d} * 16);
#pragma GCC unroll 8
      for (uint32_t i = 0; i < kQueries; ++i) sum[i] = MultiplyAdd(k, Broadcast(q[i][d]), sum[i]);
    }
#pragma GCC unroll 8
    for (uint32_t i = 0; i < kQueries; ++i) {
      Put(job.scores + (query + i) * job.score_stride + at, sum[i]);
    }
  }
}

// Turns the scores of one query into weights that are not yet divided by their sum; those
// behind its length become 0, up to `slots`. Returns 1 / sum.
inline float SoftMax(float* scores, uint32_t length, uint32_t slots, float scale) {
  const uint32_t padded = RoundUp16(length);
  for (uint32_t i = length; i < padded; ++i) scores[i] = -3e38f;
  Floats most = Load(scores);
  for (uint32_t i = 16; i < padded; i += 16) most = Max(most, Load(scores + i));
  const Floats shift = Broadcast(Largest(most)), factor = Broadcast(scale);
  for (uint32_t i = 0; i < padded; i += 16) {
    Put(scores + i, Exp(Multiply(Subtract(Load(scores + i), shift), factor)));
  }
  const uint32_t end = RoundUp16(slots);
  for (uint32_t i = length; i < end; ++i) scores[i] = 0;
  Floats sum = Zero();
  for (uint32_t i = 0; i < padded; i += 16) sum = Add(sum, Load(scores + i));
  return 1.0f / Sum(sum);
}

// out[query] = sum of weights x V for 16 * kVectors dimensions from `d`.
template <bool kHalf, uint32_t kQueries, uint32_t kVectors>
void ValueTile(const AttentionJob& job, uint32_t query, uint32_t slots, uint32_t d,
               const float* inverse_sums) {
  const uint32_t padded = RoundUp16(job.head_size);
  const size_t v_at = size_t{job.head_size} * 16 + d;
  const float* weights[kQueries];
  Floats sum[kQueries][kVectors];
#pragma GCC unroll 8
  for (uint32_t i = 0; i < kQueries; ++i) {
    weights[i] = job.scores + (query + i) * job.score_stride;
#pragma GCC unroll 8
    for (uint32_t j = 0; j < kVectors; ++j) sum[i][j] = Zero();
  }
  for (uint32_t slot = 0; slot < slots; ++slot) {
    const std::byte* block = job.blocks[slot / kSlotsPerBlock];
    const size_t at = v_at + size_t{slot % kSlotsPerBlock} * padded;
    Floats v[kVectors];
#pragma GCC unroll 8
    for (uint32_t j = 0; j < kVectors; ++j) v[j] = LoadElements<kHalf>(block, at + j * 16);
#pragma GCC unroll 8
    for (uint32_t i = 0; i < kQueries; ++i) {
      const Floats weight = Broadcast(weights[i][slot]);
#pragma GCC unroll 8
      for (uint32_t j = 0; j < kVectors; ++j) sum[i][j] = MultiplyAdd(v[j], weight, sum[i][j]);
    }
  }
#pragma GCC unroll 8
  for (uint32_t i = 0; i < kQueries; ++i) {
#pragma GCC unroll 8
    for (uint32_t j = 0; j < kVectors; ++j) {
      float lanes[16];
      Put(lanes, Multiply(sum[i][j], Broadcast(inverse_sums[query + i])));
      for (uint32_t k = 0; k < 16 && d + j * 16 + k < job.head_size; ++k) {
        job.out[query + i][d + j * 16 + k] = lanes[k];
      }
    }
  }
}

constexpr uint32_t kTileQueries = kTileTokens;

template <bool kHalf, uint32_t kQueries = kTileQueries>
void ScoreTileOf(uint32_t queries, const AttentionJob& job, uint32_t query, uint32_t slots) {
  if constexpr (kQueries > 1) {
    if (queries < kQueries) return ScoreTileOf<kHalf, kQueries - 1>(queries, job, query, slots);
  }
  ScoreTile<kHalf, kQueries>(job, query, slots);
}

template <bool kHalf, uint32_t kQueries = kTileQueries>
void ValueTileOf(uint32_t queries, const AttentionJob& job, uint32_t query, uint32_t slots,
                 const float* inverse_sums) {
  if constexpr (kQueries > 1) {
    if (queries < kQueries) {
      return ValueTileOf<kHalf, kQueries - 1>(queries, job, query, slots, inverse_sums);
    }
  }
  const uint32_t padded = RoundUp16(job.head_size);
  uint32_t d = 0;
  for (; d + 32 <= padded; d += 32) {
    ValueTile<kHalf, kQueries, 2>(job, query, slots, d, inverse_sums);
  }
  if (d < padded) ValueTile<kHalf, kQueries, 1>(job, query, slots, d, inverse_sums);
}

template <bool kHalf>
void AttendAs(const AttentionJob& job) {
  uint32_t slots = 0;
  for (uint32_t i = 0; i < job.queries; ++i)
    slots = job.lengths[i] > slots ? job.lengths[i] : slots;
  float inverse_sums[kQueriesMax];
  for (uint32_t query = 0; query < job.queries; query += kTileQueries) {
    const uint32_t left = job.queries - query;
    const uint32_t queries = left < kTileQueries ? left : kTileQueries;
    ScoreTileOf<kHalf>(queries, job, query, slots);
    for (uint32_t i = query; i < query + queries; ++i) {
      inverse_sums[i] =
          SoftMax(job.scores + i * job.score_stride, job.lengths[i], slots, job.scale);
    }
    ValueTileOf<kHalf>(queries, job, query, slots, inverse_sums);
  }
}

void Attend(const AttentionJob& job) {
  job.half ? AttendAs<true>(job) : AttendAs<false>(job);
}
