#include "edge/base/file_system.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <random>

#include "edge/base/errors.h"
#include "edge/base/random.h"
#include "tests/base/temp_directory.h"

using namespace edge;  // NOLINT

namespace {

// The same promises for the machine's files, for files in memory, and through the wrapper.
struct World {
  explicit World(const std::string& kind) {
    if (kind == "posix") {
      files = &PosixFileSystem();
      root = temp.path();
    } else {
      memory = MemoryFileSystem::Create();
      files = memory.get();
      root = "/data";
      REQUIRE(files->MakeDirectories(root).ok());
    }
    if (kind == "wrapped") {
      faulty =
          FaultyFileSystem::Create(*memory, [](FaultyFileSystem::Operation, const std::string&) {
            return FaultyFileSystem::Decision{};
          });
      files = faulty.get();
    }
  }
  std::string Path(const std::string& name) const { return root + "/" + name; }

  TempDirectory temp;
  std::unique_ptr<MemoryFileSystem> memory;
  std::unique_ptr<FaultyFileSystem> faulty;
  FileSystem* files;
  std::string root;
};

std::string Text(FileSystem& files, const std::string& path) {
  return std::string(AsText(ReadFile(files, path).value()));
}
void Put(FileSystem& files, const std::string& path, std::string_view text, bool sync = true) {
  auto file = files.Open(path, OpenMode::kCreateTruncate).value();
  REQUIRE(file->WriteAt(0, AsBytes(text)).ok());
  if (sync) REQUIRE(file->Sync().ok());
}

}  // namespace

TEST_CASE("open modes make, keep, refuse and empty files", "[base][files]") {
  World world(GENERATE("posix", "memory", "wrapped"));
  FileSystem& files = *world.files;
  const std::string path = world.Path("f");
  REQUIRE(files.Open(path, OpenMode::kRead).status().code() == StatusCode::kNotFound);
  REQUIRE(files.Open(path, OpenMode::kReadWrite).status().code() == StatusCode::kNotFound);
  REQUIRE(files.Open(world.Path("no/f"), OpenMode::kCreate).status().code() ==
          StatusCode::kNotFound);
  REQUIRE(files.Open(world.root, OpenMode::kReadWrite).status().code() ==
          StatusCode::kInvalidArgument);
  Put(files, path, "one");
  REQUIRE(files.Open(path, OpenMode::kCreateNew).status().code() == StatusCode::kAlreadyExists);
  REQUIRE(files.Open(path, OpenMode::kCreate).value()->Size().value() == 3);
  REQUIRE_FALSE(files.Open(path, OpenMode::kRead).value()->WriteAt(0, AsBytes("x")).ok());
  REQUIRE(Text(files, path) == "one");
  REQUIRE(files.Open(path, OpenMode::kCreateTruncate).value()->Size().value() == 0);
}

TEST_CASE("a file is written and read at any offset, with zeroes between", "[base][files]") {
  World world(GENERATE("posix", "memory", "wrapped"));
  auto file = world.files->Open(world.Path("f"), OpenMode::kCreate).value();
  REQUIRE(file->WriteAt(3, AsBytes("abc")).ok());
  REQUIRE(file->WriteAt(1, AsBytes("z")).ok());
  Bytes out(10);
  REQUIRE(file->ReadAt(0, out).value() == 6);
  REQUIRE(AsText(ByteView(out).first(6)) == std::string_view("\0z\0abc", 6));
  REQUIRE(file->ReadAt(6, out).value() == 0);
  REQUIRE(file->ReadAt(600, out).value() == 0);
  REQUIRE(file->Truncate(4).ok());
  REQUIRE(file->Size().value() == 4);
  REQUIRE(file->Allocate(100).ok());
  REQUIRE(file->Allocate(50).ok());  // never shrinks
  REQUIRE(file->Size().value() == 100);
  REQUIRE(file->ReadAt(2, MutableByteView(out).first(3)).value() == 3);
  REQUIRE(AsText(ByteView(out).first(3)) == std::string_view("\0a\0", 3));
  REQUIRE(file->Sync().ok());
}

TEST_CASE("names are linked, renamed, listed and removed", "[base][files]") {
  World world(GENERATE("posix", "memory", "wrapped"));
  FileSystem& files = *world.files;
  Put(files, world.Path("a"), "A");
  Put(files, world.Path("b"), "BB");
  REQUIRE(files.Link(world.Path("a"), world.Path("b")).code() == StatusCode::kAlreadyExists);
  REQUIRE(files.Link(world.Path("none"), world.Path("c")).code() == StatusCode::kNotFound);
  REQUIRE(files.Link(world.Path("a"), world.Path("c")).ok());
  REQUIRE(files.Remove(world.Path("a")).ok());
  REQUIRE(files.Remove(world.Path("a")).code() == StatusCode::kNotFound);
  REQUIRE(Text(files, world.Path("c")) == "A");
  REQUIRE(files.Rename(world.Path("c"), world.Path("b")).ok());
  REQUIRE(Text(files, world.Path("b")) == "A");
  REQUIRE(files.Rename(world.Path("c"), world.Path("d")).code() == StatusCode::kNotFound);

  REQUIRE(files.MakeDirectories(world.Path("x/y/z")).ok());
  REQUIRE(files.MakeDirectories(world.Path("x/y/z/")).ok());
  REQUIRE_FALSE(files.MakeDirectories(world.Path("b/q")).ok());
  REQUIRE_FALSE(files.MakeDirectories(world.Path("b")).ok());
  REQUIRE(files.Remove(world.Path("x")).code() == StatusCode::kAlreadyExists);
  Put(files, world.Path("x/file"), "1");
  REQUIRE(files.Rename(world.Path("x"), world.Path("w")).ok());
  REQUIRE(Text(files, world.Path("w/file")) == "1");
  const auto list = files.List(world.root).value();
  REQUIRE(list.size() == 2);
  REQUIRE(list[0].name == "b");
  REQUIRE(list[0].bytes == 1);
  REQUIRE_FALSE(list[0].is_directory);
  REQUIRE(list[1].name == "w");
  REQUIRE(list[1].is_directory);
  REQUIRE(files.List(world.Path("none")).status().code() == StatusCode::kNotFound);
  REQUIRE(files.Exists(world.Path("w/y")).value());
  REQUIRE_FALSE(files.Exists(world.Path("x")).value());
  REQUIRE_FALSE(files.Exists(world.Path("b/under/a/file")).value());
  REQUIRE(files.SyncDirectory(world.root).ok());
  REQUIRE_FALSE(files.SyncDirectory(world.Path("none")).ok());
}

TEST_CASE("an open file outlives its name", "[base][files]") {
  World world(GENERATE("posix", "memory", "wrapped"));
  Put(*world.files, world.Path("f"), "still here");
  auto file = world.files->Open(world.Path("f"), OpenMode::kRead).value();
  REQUIRE(world.files->Remove(world.Path("f")).ok());
  Bytes out(5);
  REQUIRE(file->ReadAt(0, out).value() == 5);
  REQUIRE(AsText(out) == "still");
}

TEST_CASE("a lock has one holder at a time", "[base][files]") {
  World world(GENERATE("posix", "memory", "wrapped"));
  auto lock = world.files->Lock(world.Path("LOCK")).value();
  const auto second = world.files->Lock(world.Path("LOCK"));
  REQUIRE(second.status().code() == StatusCode::kFailedPrecondition);
  REQUIRE(Message(second.status()).find(world.Path("LOCK")) == 0);
  lock.reset();
  REQUIRE(world.files->Lock(world.Path("LOCK")).ok());
}

TEST_CASE("a mapped file shows the bytes", "[base][files]") {
  World world(GENERATE("posix", "memory", "wrapped"));
  Put(*world.files, world.Path("f"), "mapped");
  Put(*world.files, world.Path("empty"), "");
  REQUIRE(AsText(world.files->Map(world.Path("f")).value()->bytes()) == "mapped");
  REQUIRE(world.files->Map(world.Path("empty")).value()->bytes().empty());
  REQUIRE(world.files->Map(world.Path("none")).status().code() == StatusCode::kNotFound);
  REQUIRE(world.files->Map(world.root).status().code() == StatusCode::kInvalidArgument);
}

TEST_CASE("direct writes are durable and whole blocks", "[base][files]") {
  World world(GENERATE("posix", "memory"));
  const std::unique_ptr<std::byte, void (*)(void*)> block(
      static_cast<std::byte*>(std::aligned_alloc(4096, 8192)), std::free);
  std::fill_n(block.get(), 8192, std::byte{7});
  for (const OpenMode mode : {OpenMode::kCreateNew, OpenMode::kReadWrite}) {
    auto file = world.files->Open(world.Path("f"), mode, Caching::kDirectSync).value();
    REQUIRE(file->WriteAt(4096, {block.get(), 4096}).ok());
    REQUIRE(file->ReadAt(0, {block.get(), 8192}).value() == 8192);
    REQUIRE(block.get()[0] == std::byte{0});
    REQUIRE(block.get()[8191] == std::byte{7});
    std::fill_n(block.get(), 8192, std::byte{7});
  }
}

TEST_CASE("ReadFile has a limit and WriteFileAtomic replaces", "[base][files]") {
  World world(GENERATE("posix", "memory", "wrapped"));
  REQUIRE(WriteFileAtomic(*world.files, world.Path("f"), AsBytes("first")).ok());
  REQUIRE(WriteFileAtomic(*world.files, world.Path("f"), AsBytes("second")).ok());
  REQUIRE(Text(*world.files, world.Path("f")) == "second");
  REQUIRE(world.files->List(world.root).value().size() == 1);  // no temporary left
  REQUIRE(ReadFile(*world.files, world.Path("f"), 5).status().code() ==
          StatusCode::kResourceExhausted);
}

TEST_CASE("files in memory agree with files on disk", "[base][files][property]") {
  const auto seed = GENERATE(range(1u, 9u));
  CAPTURE(seed);
  std::mt19937 rng(seed);
  World disk("posix");
  World memory("memory");
  std::map<std::string, std::pair<std::unique_ptr<File>, std::unique_ptr<File>>> open;
  const std::vector<std::string> names = {"a", "b", "d", "d/a", "d/b", "e/a"};
  for (int step = 0; step < 400; ++step) {
    const std::string name = names[rng() % names.size()];
    const std::string other = names[rng() % names.size()];
    const std::string on_disk = disk.Path(name);
    const std::string in_memory = memory.Path(name);
    CAPTURE(step, name, other);
    const auto same = [](const Status& one, const Status& two) {
      CAPTURE(one.ToString(), two.ToString());
      REQUIRE(one.ok() == two.ok());
    };
    switch (rng() % 9) {
      case 0: {
        const auto mode = static_cast<OpenMode>(rng() % 5);
        auto one = disk.files->Open(on_disk, mode);
        auto two = memory.files->Open(in_memory, mode);
        if (mode == OpenMode::kRead) break;  // both may or may not open; not kept
        same(one.status(), two.status());
        if (one.ok()) open[name] = {*std::move(one), *std::move(two)};
        break;
      }
      case 1:
        same(disk.files->Remove(on_disk), memory.files->Remove(in_memory));
        break;
      case 2:
        same(disk.files->Rename(on_disk, disk.Path(other)),
             memory.files->Rename(in_memory, memory.Path(other)));
        break;
      case 3:
        same(disk.files->Link(on_disk, disk.Path(other)),
             memory.files->Link(in_memory, memory.Path(other)));
        break;
      case 4:
        same(disk.files->MakeDirectories(disk.Path("d")),
             memory.files->MakeDirectories(memory.Path("d")));
        break;
      case 5: {
        const auto one = disk.files->List(disk.root).value();
        const auto two = memory.files->List(memory.root).value();
        REQUIRE(one.size() == two.size());
        for (size_t i = 0; i < one.size(); ++i) {
          REQUIRE(one[i].name == two[i].name);
          REQUIRE(one[i].is_directory == two[i].is_directory);
          if (!one[i].is_directory) REQUIRE(one[i].bytes == two[i].bytes);
        }
        break;
      }
      default: {
        const auto found = open.find(name);
        if (found == open.end()) break;
        auto& [one, two] = found->second;
        const uint64_t offset = rng() % 3000;
        Bytes data(rng() % 2000, static_cast<std::byte>(rng()));
        if (rng() % 4 == 0) {
          same(one->Truncate(offset), two->Truncate(offset));
        } else {
          same(one->WriteAt(offset, data), two->WriteAt(offset, data));
        }
        Bytes first(6000);
        Bytes second(6000);
        REQUIRE(one->ReadAt(0, first).value() == two->ReadAt(0, second).value());
        REQUIRE(first == second);
      }
    }
  }
}

TEST_CASE("a full disk refuses more and works again after a removal", "[base][files]") {
  auto files = MemoryFileSystem::Create();
  files->SetCapacity(1000);
  Put(*files, "a", std::string(600, 'a'));
  auto b = files->Open("b", OpenMode::kCreate).value();
  REQUIRE(b->WriteAt(0, Bytes(500)).code() == StatusCode::kResourceExhausted);
  REQUIRE(b->WriteAt(0, Bytes(400)).ok());
  REQUIRE(files->Rename("a", "c").ok());
  REQUIRE(b->Truncate(401).code() == StatusCode::kResourceExhausted);
  auto c = files->Open("c", OpenMode::kRead).value();
  REQUIRE(files->Remove("c").ok());
  REQUIRE(b->Truncate(500).code() == StatusCode::kResourceExhausted);  // still open
  c.reset();
  REQUIRE(b->Truncate(1000).ok());
}

TEST_CASE("a crash never touches what was synced", "[base][files][property]") {
  const auto seed = GENERATE(range(1u, 65u));
  CAPTURE(seed);
  SeededRandom random(seed);
  auto files = MemoryFileSystem::Create();
  REQUIRE(files->MakeDirectories("d").ok());
  std::map<std::string, Bytes> durable;
  for (int round = 0; round < 20; ++round) {
    for (int i = 0; i < 5; ++i) {
      const std::string path = "d/" + std::to_string(random.Below(4));
      auto file = files->Open(path, OpenMode::kCreate).value();
      Bytes noise(random.Below(3000));
      random.Fill(noise);
      REQUIRE(file->WriteAt(random.Below(3000), noise).ok());
      if (random.Below(3) == 0) REQUIRE(file->Truncate(random.Below(3000)).ok());
      REQUIRE(file->Sync().ok());
      REQUIRE(files->SyncDirectory("d").ok());
      durable[path] = ReadFile(*files, path).value();
    }
    files->Crash(random);
    REQUIRE(files->List("d").value().size() == durable.size());
    for (const auto& [path, content] : durable) REQUIRE(ReadFile(*files, path).value() == content);
  }
}

TEST_CASE("unsynced bytes are lost, kept or torn by sector, and nothing else", "[base][files]") {
  int lost = 0;
  int kept = 0;
  int torn = 0;
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    CAPTURE(seed);
    SeededRandom random(seed);
    auto files = MemoryFileSystem::Create();
    Put(*files, "f", std::string(4096, 'o'));
    REQUIRE(files->SyncDirectory("/").ok());
    auto file = files->Open("f", OpenMode::kReadWrite).value();
    REQUIRE(file->WriteAt(512, AsBytes(std::string(2048, 'n'))).ok());
    files->Crash(random);
    REQUIRE(file->Sync().code() == StatusCode::kUnavailable);
    const std::string text = Text(*files, "f");
    REQUIRE(text.size() == 4096);
    int fresh = 0;
    for (size_t at = 0; at < text.size(); at += 512) {
      REQUIRE(std::ranges::count(text.substr(at, 512), text[at]) == 512);
      fresh += text[at] == 'n';
    }
    REQUIRE(std::ranges::count(text, 'n') + std::ranges::count(text, 'o') == 4096);
    REQUIRE((text[0] == 'o' && text[2560] == 'o'));
    ++(fresh == 0 ? lost : fresh == 4 ? kept : torn);
  }
  REQUIRE(lost > 20);
  REQUIRE(kept > 20);
  REQUIRE(torn > 20);
}

TEST_CASE("an unsynced cut or growth is there or not", "[base][files]") {
  std::map<std::string, int> seen;
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    CAPTURE(seed);
    SeededRandom random(seed);
    auto files = MemoryFileSystem::Create();
    Put(*files, "cut", std::string(1500, 'o'));
    Put(*files, "grown", "abc");
    REQUIRE(files->SyncDirectory("").ok());
    REQUIRE(files->Open("cut", OpenMode::kReadWrite).value()->Truncate(700).ok());
    REQUIRE(files->Open("grown", OpenMode::kReadWrite).value()->WriteAt(3, AsBytes("def")).ok());
    files->Crash(random);
    const std::string cut = Text(*files, "cut");
    REQUIRE((cut == std::string(700, 'o') || cut == std::string(1500, 'o')));
    const std::string grown = Text(*files, "grown");
    REQUIRE((grown == "abc" || grown == "abcdef" || grown == std::string("abc\0\0\0", 6)));
    ++seen[grown];
    ++seen[std::to_string(cut.size())];
  }
  REQUIRE(seen.size() == 5);
}

TEST_CASE("names not synced may be lost, and a rename is never split", "[base][files]") {
  std::map<std::string, int> seen;
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    CAPTURE(seed);
    SeededRandom random(seed);
    auto files = MemoryFileSystem::Create();
    Put(*files, "old", "1");
    REQUIRE(files->SyncDirectory("/").ok());
    Put(*files, "new", "2");  // synced bytes, but a name that is not
    REQUIRE(files->Rename("old", "moved").ok());
    files->Crash(random);
    std::string names;
    const auto list = files->List("/").value();
    for (const auto& entry : list) names += entry.name + " ";
    ++seen[names];
    REQUIRE(files->Exists("old").value() != files->Exists("moved").value());
  }
  REQUIRE(seen.size() == 4);
}

TEST_CASE("syncing the target folder of a move keeps what the move stands on", "[base][files]") {
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    CAPTURE(seed);
    SeededRandom random(seed);
    auto files = MemoryFileSystem::Create();
    REQUIRE(files->MakeDirectories("a").ok());
    REQUIRE(files->MakeDirectories("b").ok());
    Put(*files, "a/x", "1");
    REQUIRE(files->Rename("a/x", "b/x").ok());
    REQUIRE(files->SyncDirectory("b").ok());
    files->Crash(random);
    REQUIRE(Text(*files, "b/x") == "1");
    REQUIRE_FALSE(files->Exists("a/x").value());
  }
}

TEST_CASE("WriteFileAtomic leaves the old or the new content after a crash at any step",
          "[base][files]") {
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    CAPTURE(seed);
    SeededRandom random(seed);
    auto memory = MemoryFileSystem::Create();
    REQUIRE(WriteFileAtomic(*memory, "f", AsBytes("old")).ok());
    uint64_t count = 0;
    auto faulty = FaultyFileSystem::Create(
        *memory, FaultyFileSystem::FailFrom(random.Below(8), Unavailable("cut here"), &count));
    const bool written = WriteFileAtomic(*faulty, "f", AsBytes("newer")).ok();
    memory->Crash(random);
    const std::string text = Text(*memory, "f");
    REQUIRE((text == "newer" || (!written && text == "old")));
  }
}

TEST_CASE("a crash frees locks and keeps a second use of the same disk apart", "[base][files]") {
  SeededRandom random(3);
  auto files = MemoryFileSystem::Create();
  auto before = files->Lock("LOCK").value();
  REQUIRE(files->SyncDirectory("/").ok());
  files->Crash(random);
  auto after = files->Lock("LOCK").value();
  before.reset();  // a handle of the dead process: must not free the new lock
  REQUIRE(files->Lock("LOCK").status().code() == StatusCode::kFailedPrecondition);
}

TEST_CASE("CorruptBit flips one bit that a sync and a crash keep", "[base][files]") {
  SeededRandom random(3);
  auto files = MemoryFileSystem::Create();
  Put(*files, "f", "aaaa");
  REQUIRE(files->SyncDirectory("/").ok());
  REQUIRE(files->CorruptBit("f", 9).ok());
  files->Crash(random);
  REQUIRE(Text(*files, "f") == "acaa");
  REQUIRE(files->CorruptBit("f", 32).code() == StatusCode::kInvalidArgument);
}

TEST_CASE("the faulty wrapper fails what it is told to and tears writes", "[base][files]") {
  auto memory = MemoryFileSystem::Create();
  std::vector<std::string> asked;
  auto files = FaultyFileSystem::Create(
      *memory, [&asked](FaultyFileSystem::Operation operation, const std::string& path) {
        asked.push_back(path);
        FaultyFileSystem::Decision decision;
        if (operation == FaultyFileSystem::Operation::kWrite) {
          decision = {ResourceExhausted("disk full"), 2};
        }
        return decision;
      });
  auto file = files->Open("f", OpenMode::kCreate).value();
  REQUIRE(file->WriteAt(0, AsBytes("abc")).code() == StatusCode::kResourceExhausted);
  REQUIRE(Text(*memory, "f") == "ab");
  REQUIRE(file->Sync().ok());
  REQUIRE(asked == std::vector<std::string>{"f", "f", "f"});
}

TEST_CASE("a fault sweep reaches every operation once", "[base][files]") {
  uint64_t count = 0;
  uint64_t n = 0;
  for (;; ++n) {
    auto memory = MemoryFileSystem::Create();
    auto files = FaultyFileSystem::Create(
        *memory, FaultyFileSystem::FailFrom(n, DataLoss("failed on purpose"), &count));
    const Status status = WriteFileAtomic(*files, "f", AsBytes("x"));
    if (status.ok()) break;
    REQUIRE(status.code() == StatusCode::kDataLoss);
    REQUIRE(count == n + 1);  // the first failure ends it
  }
  REQUIRE(n == 5);  // open, write, sync, rename, sync of the folder
}

TEST_CASE("a folder that forbids writing says PermissionDenied", "[base][files]") {
  if (geteuid() == 0) {
    SUCCEED("root may write anywhere");
    return;
  }
  const TempDirectory temp;
  REQUIRE(chmod(temp.path().c_str(), 0555) == 0);
  REQUIRE(PosixFileSystem().Open(temp.File("f"), OpenMode::kCreate).status().code() ==
          StatusCode::kPermissionDenied);
}
