// The machine of machine.cuh on a GPU: one instruction or intrinsic for each function.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include "machine.cuh"

#define UQLIB_KERNEL __global__ void
#define UQLIB_THREADS(...) __launch_bounds__(__VA_ARGS__)
#define UQLIB_DEVICE __device__ __forceinline__

namespace uqlib {

using Stream = cudaStream_t;

UQLIB_DEVICE Index3 thread_index() { return {threadIdx.x, threadIdx.y, threadIdx.z}; }
UQLIB_DEVICE Index3 block_index() { return {blockIdx.x, blockIdx.y, blockIdx.z}; }
UQLIB_DEVICE Index3 block_size() { return {blockDim.x, blockDim.y, blockDim.z}; }
UQLIB_DEVICE Index3 grid_size() { return {gridDim.x, gridDim.y, gridDim.z}; }

template <typename T>
UQLIB_DEVICE T* shared_memory() {
  extern __shared__ uint4 memory[];
  return reinterpret_cast<T*>(memory);
}

UQLIB_DEVICE void sync_block() { __syncthreads(); }
UQLIB_DEVICE void sync_warp() { __syncwarp(); }

template <typename T>
UQLIB_DEVICE T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xFFFFFFFFu, value, mask);
}
template <typename T>
UQLIB_DEVICE T shuffle(T value, int lane) {
  return __shfl_sync(0xFFFFFFFFu, value, lane);
}

UQLIB_DEVICE uint32_t ballot(bool holds) { return __ballot_sync(0xFFFFFFFFu, holds); }
UQLIB_DEVICE int count_bits(uint32_t word) { return __popc(word); }

UQLIB_DEVICE Words4 load_once(const Words4* address) {
  Words4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(address));
  return v;
}
UQLIB_DEVICE Words4 load_kept(const Words4* address) {
  const uint4 v = __ldg(reinterpret_cast<const uint4*>(address));
  return {v.x, v.y, v.z, v.w};
}
UQLIB_DEVICE Words2 load_kept(const Words2* address) {
  const uint2 v = __ldg(reinterpret_cast<const uint2*>(address));
  return {v.x, v.y};
}
UQLIB_DEVICE uint32_t load_kept(const uint32_t* address) { return __ldg(address); }
UQLIB_DEVICE int32_t load_kept(const int32_t* address) { return __ldg(address); }
UQLIB_DEVICE float load_kept(const float* address) { return __ldg(address); }

UQLIB_DEVICE void copy_async(void* shared, const void* global, bool valid) {
  const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global),
               "r"(valid ? 16 : 0)
               : "memory");
}
UQLIB_DEVICE void copy_word_async(void* shared, const void* global, bool valid) {
  const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(global),
               "r"(valid ? 4 : 0)
               : "memory");
}
UQLIB_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
UQLIB_DEVICE void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

UQLIB_DEVICE void multiply_add(float (&d)[4], const uint32_t (&a)[4],
                               const uint32_t (&b)[2], Half) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
UQLIB_DEVICE void multiply_add(float (&d)[4], const uint32_t (&a)[4],
                               const uint32_t (&b)[2], BFloat16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
UQLIB_DEVICE void multiply_add(int32_t (&d)[4], const uint32_t (&a)[4],
                               const uint32_t (&b)[2], int8_t) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

UQLIB_DEVICE uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t selector) {
  return __byte_perm(a, b, selector);
}

namespace gpu {
template <typename Vector>
UQLIB_DEVICE uint32_t word(Vector v) {
  return reinterpret_cast<const uint32_t&>(v);
}
template <typename Vector>
UQLIB_DEVICE Vector vector(uint32_t v) {
  return reinterpret_cast<const Vector&>(v);
}
}  // namespace gpu

UQLIB_DEVICE uint32_t subtract_pairs(uint32_t a, uint32_t b, Half) {
  return gpu::word(__hsub2(gpu::vector<__half2>(a), gpu::vector<__half2>(b)));
}
UQLIB_DEVICE uint32_t subtract_pairs(uint32_t a, uint32_t b, BFloat16) {
  return gpu::word(
      __hsub2(gpu::vector<__nv_bfloat162>(a), gpu::vector<__nv_bfloat162>(b)));
}
UQLIB_DEVICE uint32_t pair_of(float low, float high, Half) {
  return gpu::word(__floats2half2_rn(low, high));
}
UQLIB_DEVICE uint32_t pair_of(float low, float high, BFloat16) {
  return gpu::word(__floats2bfloat162_rn(low, high));
}
UQLIB_DEVICE float to_float(float v) { return v; }
UQLIB_DEVICE float to_float(Half v) { return __half2float(__ushort_as_half(v.bits)); }
UQLIB_DEVICE float to_float(BFloat16 v) {
  return __bfloat162float(__ushort_as_bfloat16(v.bits));
}
template <typename T>
UQLIB_DEVICE T from_float(float v);
template <>
UQLIB_DEVICE float from_float<float>(float v) {
  return v;
}
template <>
UQLIB_DEVICE Half from_float<Half>(float v) {
  return {__half_as_ushort(__float2half_rn(v))};
}
template <>
UQLIB_DEVICE BFloat16 from_float<BFloat16>(float v) {
  return {__bfloat16_as_ushort(__float2bfloat16_rn(v))};
}

// A number that the current device has; 0 where there is none.
inline int attribute(cudaDeviceAttr name) {
  int device = 0, value = 0;
  if (cudaGetDevice(&device) == cudaSuccess &&
      cudaDeviceGetAttribute(&value, name, device) == cudaSuccess)
    return value;
  cudaGetLastError();  // not for the next launch to find
  return 0;
}
inline int n_multiprocessors() { return attribute(cudaDevAttrMultiProcessorCount); }
// Bytes of shared memory that a block may have.
inline int most_shared_memory() {
  return attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
}

// Launches a kernel and returns a code of CUDA, 0 where it was accepted.
template <typename... Parameters, typename... Arguments>
int launch(void (*kernel)(Parameters...), Index3 grid, int threads, size_t shared_bytes,
           Stream stream, Arguments... arguments) {
  if (shared_bytes > 48 * 1024) {
    // Always the most there is: the limit is one of the kernel, and another thread may be
    // between its own two calls.
    const int most = most_shared_memory();
    cudaError_t error = cudaErrorInvalidConfiguration;
    if (shared_bytes <= static_cast<size_t>(most))
      error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
    if (error != cudaSuccess) {
      cudaGetLastError();  // not for the next launch to find
      return error;
    }
  }
  kernel<<<dim3(grid.x, grid.y, grid.z), threads, shared_bytes, stream>>>(arguments...);
  return cudaGetLastError();
}

inline const char* error_string(int code) {
  return cudaGetErrorString(static_cast<cudaError_t>(code));
}

}  // namespace uqlib
