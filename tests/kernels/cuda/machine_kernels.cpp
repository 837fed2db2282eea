// Small kernels, each of one thing that machine.cuh promises, right and with a mistake.
#include "machine.cuh"

namespace uqlib {
namespace {

constexpr int kThreads = 64;

// out[block, thread] = the index of a thread and its block, and the sizes.
UQLIB_KERNEL indices(int* out) {
  const Index3 thread = thread_index(), block = block_index(), grid = grid_size();
  const unsigned b = (block.z * grid.y + block.y) * grid.x + block.x;
  int* mine = out + (b * block_size().x + thread.x) * 4;
  mine[0] = static_cast<int>(block.x);
  mine[1] = static_cast<int>(block.y);
  mine[2] = static_cast<int>(block.z);
  mine[3] = static_cast<int>(thread.x);
}

// out[thread]: v of lane (lane ^ mask), then v of the lane that `from` names, then a sum
// over the warp by halving.
UQLIB_KERNEL shuffles(const float* v, const int* from, int mask, float* out) {
  const int i = static_cast<int>(thread_index().x);
  out[i] = shuffle_xor(v[i], mask);
  out[kThreads + i] = shuffle(v[i], from[i]);
  float sum = v[i];
  for (int half = kLanes / 2; half > 0; half /= 2) sum += shuffle_xor(sum, half);
  out[2 * kThreads + i] = sum;
}

// out[warp]: the lanes where holds is not 0; out[2 + warp]: their number.
UQLIB_KERNEL ballots(const int* holds, uint32_t* out) {
  const unsigned i = thread_index().x;
  const uint32_t word = ballot(holds[i] != 0);
  if (i % kLanes == i / kLanes) {
    out[i / kLanes] = word;
    out[2 + i / kLanes] = static_cast<uint32_t>(count_bits(word));
  }
}

// Reverses a block through shared memory.
template <bool kBarrier, bool kOfBlock>
UQLIB_KERNEL reverse(const int* v, int* out) {
  int* shared = shared_memory<int>();
  const int n = static_cast<int>(block_size().x), i = static_cast<int>(thread_index().x);
  const int span = kOfBlock ? n : kLanes, first = i / span * span;
  shared[i] = v[i];
  if constexpr (kBarrier && kOfBlock) sync_block();
  if constexpr (kBarrier && !kOfBlock) sync_warp();
  out[i] = shared[first + span - 1 - (i - first)];
}

// Copies rounds of 16 or 4 bytes a thread through a ring of stages. Groups that may be pending
// when a stage is read are those of the stages after it: 2.
template <typename Words>
void copy_words(Words* shared, const Words* in, bool valid) {
  if constexpr (sizeof(Words) == 16)
    copy_async(shared, in, valid);
  else
    copy_word_async(shared, in, valid);
}
template <int kPending, typename Words>
UQLIB_KERNEL pipeline(const Words* in, int rounds, int n_valid, Words* out) {
  constexpr int kStages = 3;
  Words* shared = shared_memory<Words>();
  const int n = static_cast<int>(block_size().x), i = static_cast<int>(thread_index().x);
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < rounds) copy_words(&shared[s * n + i], &in[s * n + i], s * n + i < n_valid);
    commit_copies();
  }
  for (int r = 0; r < rounds; ++r) {
    const int next = r + kStages - 1;
    if (next < rounds)
      copy_words(&shared[next % kStages * n + i], &in[next * n + i], next * n + i < n_valid);
    commit_copies();
    wait_for_copies<kPending>();
    out[r * n + i] = shared[r % kStages * n + i];  // its own copies: no barrier
  }
  wait_for_copies<0>();
}

template <typename T, typename Sum>
UQLIB_KERNEL products(const uint32_t* a, const uint32_t* b, Sum* d) {
  const unsigned i = thread_index().x;
  uint32_t mine[4], other[2];
  Sum sums[4];
  for (int r = 0; r < 4; ++r) mine[r] = a[4 * i + r];
  for (int r = 0; r < 2; ++r) other[r] = b[2 * i + r];
  for (int e = 0; e < 4; ++e) sums[e] = d[4 * i + e];
  multiply_add(sums, mine, other, T());
  for (int e = 0; e < 4; ++e) d[4 * i + e] = sums[e];
}

UQLIB_KERNEL loads(const char* in, int offset, uint32_t* out) {
  const auto* words = reinterpret_cast<const uint32_t*>(in + offset);
  const Words4 four = load_once(reinterpret_cast<const Words4*>(words));
  const Words2 two = load_kept(reinterpret_cast<const Words2*>(words));
  out[0] = four.w;
  out[1] = two.y;
  out[2] = load_kept(words);
}

// The ways in which a kernel can be wrong that end its launch.
enum Mistake {
  kDeadlock,
  kDivergence,
  kEarlyEnd,
  kMisaligned,
  kMisalignedWord,
  kNoWait,
  kBarriers
};
UQLIB_KERNEL mistakes(int which, const Words4* in) {
  const unsigned i = thread_index().x;
  Words4* shared = shared_memory<Words4>();
  switch (which) {
    case kDeadlock:
      if (i != 3) sync_block();
      break;
    case kDivergence:
      if (i % 2)
        sync_warp();
      else
        shuffle_xor(1, 1);
      break;
    case kEarlyEnd:
      if (i >= 5) shuffle_xor(1, 1);
      break;
    case kMisaligned:
      copy_async(reinterpret_cast<char*>(&shared[i]) + 8, &in[i], true);
      break;
    case kMisalignedWord:
      copy_word_async(&shared[i], reinterpret_cast<const char*>(&in[i]) + 2, true);
      break;
    case kNoWait:
      copy_async(&shared[i], &in[i], true);
      commit_copies();
      break;
    default:
      if (i < 32)
        sync_block();
      else
        sync_warp();
  }
}

// Writes a byte of shared memory.
UQLIB_KERNEL touch(int at) { shared_memory<volatile char>()[at] = 1; }

UQLIB_KERNEL nothing(int) {}

template <typename T>
void convert(const float* in, int64_t n, uint16_t* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = from_float<T>(in[i]).bits;
}
template <typename T>
void expand(float* out) {
  for (int i = 0; i < 65536; ++i) out[i] = to_float(T{static_cast<uint16_t>(i)});
}

}  // namespace
}  // namespace uqlib

using namespace uqlib;

extern "C" {

void machine_seed(unsigned seed) { emulated::machine().random.seed(seed); }
const char* machine_message(int code) { return error_string(code); }

int machine_indices(int x, int y, int z, int threads, int* out) {
  const Index3 grid = {static_cast<unsigned>(x), static_cast<unsigned>(y),
                       static_cast<unsigned>(z)};
  return launch(indices, grid, threads, 0, nullptr, out);
}
int machine_shuffles(const float* v, const int* from, int mask, float* out) {
  return launch(shuffles, {1, 1, 1}, kThreads, 0, nullptr, v, from, mask, out);
}
int machine_ballots(const int* holds, uint32_t* out) {
  return launch(ballots, {1, 1, 1}, kThreads, 0, nullptr, holds, out);
}
int machine_reverse(int barrier, int of_block, const int* v, int n, int* out) {
  const auto kernel = of_block ? (barrier ? reverse<true, true> : reverse<false, true>)
                               : (barrier ? reverse<true, false> : reverse<false, false>);
  return launch(kernel, {1, 1, 1}, n, n * sizeof(int), nullptr, v, out);
}
int machine_pipeline(int words, int pending, const void* in, int rounds, int n_valid,
                     void* out) {
  const auto run = [&](auto kernel, auto word) {
    using Words = decltype(word);
    return launch(kernel, {1, 1, 1}, kThreads, 3 * kThreads * sizeof(Words), nullptr,
                  static_cast<const Words*>(in), rounds, n_valid, static_cast<Words*>(out));
  };
  if (words == 4)
    return pending == 2 ? run(pipeline<2, Words4>, Words4{})
                        : run(pipeline<3, Words4>, Words4{});
  return pending == 2 ? run(pipeline<2, uint32_t>, 0u) : run(pipeline<3, uint32_t>, 0u);
}
int machine_products(int type, const uint32_t* a, const uint32_t* b, void* d) {
  if (type == 3)
    return launch(products<int8_t, int32_t>, {1, 1, 1}, 32, 0, nullptr, a, b,
                  static_cast<int32_t*>(d));
  return launch(type == 1 ? products<Half, float> : products<BFloat16, float>, {1, 1, 1}, 32,
                0, nullptr, a, b, static_cast<float*>(d));
}
int machine_loads(const char* in, int offset, uint32_t* out) {
  return launch(loads, {1, 1, 1}, 1, 0, nullptr, in, offset, out);
}
int machine_mistakes(int which, const void* in, int threads) {
  return launch(mistakes, {1, 1, 1}, threads, threads * 16, nullptr, which,
                static_cast<const Words4*>(in));
}
int machine_touch(int shared_bytes, int at) {
  return launch(touch, {1, 1, 1}, 1, shared_bytes, nullptr, at);
}
int machine_sizes(int x, int y, int threads, int64_t shared_bytes) {
  const Index3 grid = {static_cast<unsigned>(x), static_cast<unsigned>(y), 1};
  return launch(nothing, grid, threads, static_cast<size_t>(shared_bytes), nullptr, 0);
}

void machine_to_float(int type, float* out) {
  type == 1 ? expand<Half>(out) : expand<BFloat16>(out);
}
void machine_from_float(int type, const float* in, int64_t n, uint16_t* out) {
  type == 1 ? convert<Half>(in, n, out) : convert<BFloat16>(in, n, out);
}
uint32_t machine_subtract_pairs(int type, uint32_t a, uint32_t b) {
  return type == 1 ? subtract_pairs(a, b, Half()) : subtract_pairs(a, b, BFloat16());
}
uint32_t machine_pair_of(int type, float low, float high) {
  return type == 1 ? pair_of(low, high, Half()) : pair_of(low, high, BFloat16());
}
uint32_t machine_permute_bytes(uint32_t a, uint32_t b, uint32_t selector) {
  return permute_bytes(a, b, selector);
}

}  // extern "C"
