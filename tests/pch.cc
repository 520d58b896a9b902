// Compiles catch.hpp once; every test binary reuses the result.
