@0xd8a1f0c3b27e9a54;
# What the Cap'n Proto peer of the rpc rows serves.
interface Squares {
  square @0 (i :Int64) -> (result :Int64);
}
