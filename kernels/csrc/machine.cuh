// What a kernel asks of the machine that it runs on.
//
// The kernels of this folder are written in C++ and the functions below, which exist
// twice: for the GPU (machine_gpu.cuh) and for an emulation on the host
// (machine_emulated.hpp, with -DUQLIB_EMULATED), where every thread of a block is a fiber
// of its own. The emulation runs the very source of a kernel without a GPU, in random
// orders of its threads, so that index maps, barriers and copies in flight are tested by
// their results. It says nothing about speed, nor about the hardware's rounding.
//
//   thread_index, block_index, grid_size, block_size     of x, y and z
//   shared_memory<T>()             the shared memory given at launch, and no other
//   sync_block(), sync_warp()      barriers of all threads of a block, a warp
//   shuffle_xor(v, mask), shuffle(v, lane)     exchange in a warp: all lanes take part
//   ballot(b), count_bits(w)       the lanes of a warp where b holds, a bit each; bits set
//   load_once(p)                   16 bytes past the first cache, for what is read once
//   load_kept(p)                   4, 8 or 16 bytes through the first cache
//   copy_async(shared, global, valid)     16 bytes in the background; zeros if not valid
//   copy_word_async(shared, global, valid)     4 bytes so
//   commit_copies(), wait_for_copies<n>() groups of copies; until at most n are pending
//   multiply_add(d, a, b, T())     d += a b on a tensor core, by all lanes of a warp:
//                                  m16n8k16 of Half or BFloat16, m16n8k32 of int8_t
//   permute_bytes(a, b, s)         four of eight bytes
//   subtract_pairs(a, b, T())      two differences of T
//   pair_of(low, high, T())        two floats rounded to T in one word
//   to_float(v), from_float<T>(f)  of one number; rounding is to nearest, ties to even
//
// On the host: launch(kernel, grid, threads, shared_bytes, stream, arguments...),
// n_multiprocessors(), most_shared_memory() of a block, error_string(code).
//
// Floats are never contracted to fused operations behind our back (-fmad=false): where
// one is meant it is written, fmaf.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(UQLIB_EMULATED) || !defined(__CUDACC__)
#define UQLIB_BOTH inline
#else
#define UQLIB_BOTH __host__ __device__ __forceinline__
#endif

namespace uqlib {

constexpr int kLanes = 32;

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};
struct alignas(16) Words4 {
  uint32_t x, y, z, w;
};
struct alignas(8) Words2 {
  uint32_t x, y;
};
struct Index3 {
  unsigned x, y, z;
};

// Whether 16 bytes can be read or written at once; null can.
inline bool is_aligned(const void* address) {
  return reinterpret_cast<uintptr_t>(address) % 16 == 0;
}
// The same bits as another type.
template <typename To, typename From>
UQLIB_BOTH To bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To same;
  memcpy(&same, &value, sizeof(To));
  return same;
}
UQLIB_BOTH void spread(uint32_t* to, const Words4& from) {
  to[0] = from.x;
  to[1] = from.y;
  to[2] = from.z;
  to[3] = from.w;
}

}  // namespace uqlib

// Without either there are no kernels, but what the host shares with them.
#if defined(UQLIB_EMULATED)
#include "machine_emulated.hpp"
#elif defined(__CUDACC__)
#include "machine_gpu.cuh"
#endif
