// What all launchers share.
#include "launch.h"
#include "machine.cuh"

extern "C" const char* uqlib_error_string(int code) {
  if (code == UQLIB_INVALID) return "an argument that no kernel takes";
  return uqlib::error_string(code);
}
extern "C" int uqlib_n_multiprocessors() { return uqlib::n_multiprocessors(); }

#if defined(UQLIB_EMULATED)
// How the emulation draws, and the GPU that it takes itself for.
extern "C" void uqlib_emulate_memory(int shared_memory) {
  uqlib::emulated::machine().shared_memory = shared_memory;
}
extern "C" void uqlib_emulate(unsigned seed, int multiprocessors) {
  uqlib::emulated::machine().random.seed(seed);
  uqlib::emulated::machine().greedy = seed % 2 == 1;
  uqlib::emulated::machine().multiprocessors = multiprocessors;
}
#endif
