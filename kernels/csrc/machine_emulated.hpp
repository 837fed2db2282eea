// The machine of machine.cuh on the host, for tests of the kernels without a GPU.
//
// A block runs at a time, in a random order of blocks. Each of its threads is a fiber
// that runs until it waits for others: at a barrier, or where a warp acts as one. Which
// of those that can go on does so next is drawn at random, and so is whether a copy in the
// background happens at once, or only when it is waited for. A kernel that forgets a
// barrier or a wait therefore gives different results for different seeds. Shared memory
// holds NaN (or -1) at first and ends at a page that nobody may touch. Threads that
// wait for ever, lanes that meet at different operations, and addresses that are not
// aligned end the launch with an error.
#pragma once

#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <bit>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "machine.cuh"

#define UQLIB_KERNEL static void
#define UQLIB_THREADS(...)
#define UQLIB_DEVICE inline

namespace uqlib {

using Stream = void*;

namespace emulated {

constexpr size_t kStack = 128 * 1024;
constexpr int kMostShared = 227 * 1024;
constexpr size_t kMostValue = 64;  // bytes that a lane gives to an operation of its warp

struct Copy {
  void* to;
  const void* from;  // null for zeros
  size_t n_bytes;
  bool done;
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  Index3 thread;
  bool finished;
  std::vector<Copy> open;                 // copies that no group holds yet
  std::vector<std::vector<Copy>> groups;  // not waited for, oldest first
};

struct Barrier {
  int arrived = 0;
  const char* what = nullptr;  // the operation at which the first one waits
  std::vector<int> waiting;
};

struct Warp {
  Barrier barrier;
  alignas(16) char in[kLanes][kMostValue];
  alignas(16) char out[kLanes][kMostValue];
};

class Machine {
 public:
  static Machine& here() {
    static Machine machine;
    return machine;
  }

  int multiprocessors = 4;
  int shared_memory = kMostShared;  // of a block
  bool greedy = false;
  std::string message;
  std::mutex mutex;  // one launch at a time
  std::mt19937 random{0};

  Index3 grid{}, block{};
  int n_threads = 0;

  Fiber& fiber() { return *fibers_[current_]; }
  Warp& warp() { return warps_[current_ / kLanes]; }
  int index() const { return current_; }
  char* shared() { return shared_; }

  bool draw(unsigned one_in) { return random() % one_in == 0; }

  // Runs the blocks of a grid; returns false with a message if one of them fails.
  bool run(Index3 size, int threads, size_t shared_bytes,
           const std::function<void()>& body) {
    grid = size;
    n_threads = threads;
    body_ = &body;
    message.clear();
    std::vector<uint64_t> order(uint64_t{size.x} * size.y * size.z);
    for (uint64_t i = 0; i < order.size(); ++i) order[i] = i;
    for (uint64_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random() % i]);
    place_shared(shared_bytes);
    for (const uint64_t i : order) {
      block = {static_cast<unsigned>(i % size.x), static_cast<unsigned>(i / size.x % size.y),
               static_cast<unsigned>(i / size.x / size.y)};
      std::memset(shared_, 0xFF, shared_bytes);
      if (!run_block()) return false;
    }
    return true;
  }

  // Ends the launch from within a fiber.
  [[noreturn]] void fail(const std::string& why) {
    if (message.empty()) message = why;
    failed_ = true;
    setcontext(&main_);
    std::abort();
  }

  // Lets others go first, now and then.
  void pause() {
    if (!draw(8)) return;
    runnable_.push_back(current_);
    to_main();
  }

  // Waits until `count` threads are at a barrier; the last one runs `act`.
  template <typename Act>
  void wait(Barrier& barrier, int count, const char* what, Act act) {
    if (barrier.arrived == 0) barrier.what = what;
    if (std::strcmp(barrier.what, what) != 0)
      fail(std::string("threads that must act together are at ") + barrier.what + " and " +
           what);
    if (++barrier.arrived < count) {
      barrier.waiting.push_back(current_);
      to_main();
      return;
    }
    act();
    barrier.arrived = 0;
    for (const int i : barrier.waiting) runnable_.push_back(i);
    barrier.waiting.clear();
  }

  Barrier& block_barrier() { return block_barrier_; }

 private:
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Warp> warps_;
  Barrier block_barrier_;
  std::vector<int> runnable_;
  ucontext_t main_;
  int current_ = 0, favored_ = 0;
  bool failed_ = false;
  const std::function<void()>* body_ = nullptr;
  char* shared_ = nullptr;
  char* region_ = nullptr;

  void to_main() { swapcontext(&fiber().context, &main_); }

  static void enter() {
    Machine& machine = here();
    (*machine.body_)();
    Fiber& fiber = machine.fiber();
    fiber.finished = true;
    for (const auto& group : fiber.groups)
      if (!group.empty()) machine.fail("a thread ends before its copies do");
    if (!fiber.open.empty()) machine.fail("a thread ends before its copies do");
    setcontext(&machine.main_);
  }

  void place_shared(size_t bytes) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t room = (kMostShared / page + 2) * page;
    if (region_ == nullptr) {
      void* found = mmap(nullptr, room + page, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      region_ = static_cast<char*>(found);
      mprotect(region_ + room, page, PROT_NONE);
    }
    shared_ = region_ + room - (bytes + 15) / 16 * 16;
  }

  // Which of the fibers that can go on does so. Every other seed favors one warp as long as
  // it can go on, and now and then another one: it runs far ahead of the others.
  size_t next() {
    const size_t any = random() % runnable_.size();
    if (!greedy || draw(64)) {
      favored_ = runnable_[any] / kLanes;
      return any;
    }
    for (size_t i = 0; i < runnable_.size(); ++i)
      if (runnable_[i] / kLanes == favored_) return i;
    favored_ = runnable_[any] / kLanes;
    return any;
  }

  bool run_block() {
    const int n_warps = (n_threads + kLanes - 1) / kLanes;
    while (static_cast<int>(fibers_.size()) < n_threads) {
      fibers_.push_back(std::make_unique<Fiber>());
      fibers_.back()->stack = std::make_unique<char[]>(kStack);
    }
    warps_.assign(n_warps, Warp());
    block_barrier_ = Barrier();
    runnable_.clear();
    failed_ = false;
    for (int i = 0; i < n_threads; ++i) {
      Fiber& fiber = *fibers_[i];
      fiber.thread = {static_cast<unsigned>(i), 0, 0};
      fiber.finished = false;
      fiber.open.clear();
      fiber.groups.clear();
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get();
      fiber.context.uc_stack.ss_size = kStack;
      fiber.context.uc_link = nullptr;
      makecontext(&fiber.context, reinterpret_cast<void (*)()>(&Machine::enter), 0);
      runnable_.push_back(i);
    }
    int finished = 0;
    while (!runnable_.empty()) {
      const size_t at = next();
      current_ = runnable_[at];
      runnable_[at] = runnable_.back();
      runnable_.pop_back();
      swapcontext(&main_, &fiber().context);
      if (failed_) return false;
      finished += fiber().finished;
    }
    if (finished == n_threads) return true;
    message = "threads wait for ever: some did not reach a barrier";
    for (const Warp& warp : warps_)
      if (warp.barrier.arrived) message += std::string(" of ") + warp.barrier.what;
    if (block_barrier_.arrived) message += " of the block";
    return false;
  }
};

inline Machine& machine() { return Machine::here(); }

inline void check_aligned(const void* address, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(address) % bytes)
    machine().fail("an address is not a multiple of " + std::to_string(bytes));
}

// What all lanes of a warp do together: each gives a value and gets one.
template <typename Out, typename In, typename Act>
Out together(const char* what, const In& value, Act act) {
  static_assert(sizeof(In) <= kMostValue && sizeof(Out) <= kMostValue);
  Machine& m = machine();
  Warp& warp = m.warp();
  if (m.n_threads % kLanes) m.fail("a block must consist of whole warps");
  const int lane = m.index() % kLanes;
  std::memcpy(warp.in[lane], &value, sizeof(In));
  m.wait(warp.barrier, kLanes, what, [&] {
    In in[kLanes];
    Out out[kLanes];
    for (int i = 0; i < kLanes; ++i) std::memcpy(&in[i], warp.in[i], sizeof(In));
    act(in, out);
    for (int i = 0; i < kLanes; ++i) std::memcpy(warp.out[i], &out[i], sizeof(Out));
  });
  Out result;
  std::memcpy(&result, warp.out[lane], sizeof(Out));
  return result;
}

inline void perform(Copy& copy) {
  if (copy.done) return;
  if (copy.from == nullptr)
    std::memset(copy.to, 0, copy.n_bytes);
  else
    std::memcpy(copy.to, copy.from, copy.n_bytes);
  copy.done = true;
}

}  // namespace emulated

inline Index3 thread_index() { return emulated::machine().fiber().thread; }
inline Index3 block_index() { return emulated::machine().block; }
inline Index3 grid_size() { return emulated::machine().grid; }
inline Index3 block_size() {
  return {static_cast<unsigned>(emulated::machine().n_threads), 1, 1};
}
template <typename T>
T* shared_memory() {
  return reinterpret_cast<T*>(emulated::machine().shared());
}

inline void sync_block() {
  emulated::Machine& m = emulated::machine();
  m.wait(m.block_barrier(), m.n_threads, "sync_block", [] {});
}
inline void sync_warp() {
  emulated::together<int>("sync_warp", 0, [](const int*, int*) {});
}
template <typename T>
T shuffle_xor(T value, int mask) {
  return emulated::together<T>("shuffle_xor", value, [mask](const T* in, T* out) {
    for (int i = 0; i < kLanes; ++i) out[i] = in[i ^ mask];
  });
}
template <typename T>
T shuffle(T value, int lane) {
  struct In {
    T value;
    int lane;
  };
  return emulated::together<T>("shuffle", In{value, lane}, [](const In* in, T* out) {
    for (int i = 0; i < kLanes; ++i) out[i] = in[in[i].lane % kLanes].value;
  });
}

inline uint32_t ballot(bool holds) {
  return emulated::together<uint32_t>("ballot", holds, [](const bool* in, uint32_t* out) {
    uint32_t word = 0;
    for (int i = 0; i < kLanes; ++i) word |= uint32_t{in[i]} << i;
    for (int i = 0; i < kLanes; ++i) out[i] = word;
  });
}
inline int count_bits(uint32_t word) { return std::popcount(word); }

inline Words4 load_once(const Words4* address) {
  emulated::check_aligned(address, 16);
  return *address;
}
template <typename T>
T load_kept(const T* address) {
  emulated::check_aligned(address, sizeof(T));
  return *address;
}

namespace emulated {

inline void begin_copy(void* shared, const void* global, size_t n_bytes, bool valid) {
  check_aligned(shared, n_bytes);
  if (valid) check_aligned(global, n_bytes);
  Machine& m = machine();
  m.pause();
  Copy copy{shared, valid ? global : nullptr, n_bytes, false};
  if (m.draw(2)) perform(copy);
  m.fiber().open.push_back(copy);
}

}  // namespace emulated

inline void copy_async(void* shared, const void* global, bool valid) {
  emulated::begin_copy(shared, global, 16, valid);
}
inline void copy_word_async(void* shared, const void* global, bool valid) {
  emulated::begin_copy(shared, global, 4, valid);
}
inline void commit_copies() {
  emulated::Fiber& fiber = emulated::machine().fiber();
  fiber.groups.push_back(std::move(fiber.open));
  fiber.open.clear();
}
template <int kPending>
void wait_for_copies() {
  emulated::Machine& m = emulated::machine();
  auto& groups = m.fiber().groups;
  while (groups.size() > kPending) {
    for (emulated::Copy& copy : groups.front()) emulated::perform(copy);
    groups.erase(groups.begin());
  }
  m.pause();
}

// Numbers of 16 bits.

namespace emulated {

// Rounds to nearest, ties to even, to a format of 16 bits with so many bits of mantissa.
template <int kMantissa>
uint16_t rounded(float value) {
  constexpr int kExponent = 15 - kMantissa, kBias = (1 << (kExponent - 1)) - 1;
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  constexpr uint16_t infinity = ((1 << kExponent) - 1) << kMantissa;
  if (std::isnan(value)) return 0x7FFF;
  if (std::isinf(value)) return sign | infinity;
  if (value == 0.0f) return sign;
  // In units of the last place of the result, which is that of the least normal number
  // for smaller ones.
  int exponent = 0;
  std::frexp(value, &exponent);
  const int unit = std::max(exponent - 1, 1 - kBias) - kMantissa;
  const double size = std::fabs(static_cast<double>(value));
  const double count = std::nearbyint(std::ldexp(size, -unit));
  // An integer that counts up the representable numbers from the first of this exponent.
  const int64_t code = static_cast<int64_t>(count) +
                       (static_cast<int64_t>(unit + kMantissa - (1 - kBias)) << kMantissa);
  return sign | static_cast<uint16_t>(std::min<int64_t>(code, infinity));
}

template <int kMantissa>
float expanded(uint16_t bits) {
  constexpr int kExponent = 15 - kMantissa, kBias = (1 << (kExponent - 1)) - 1;
  const int exponent = bits >> kMantissa & ((1 << kExponent) - 1);
  const int mantissa = bits & ((1 << kMantissa) - 1);
  const float sign = bits & 0x8000u ? -1.0f : 1.0f;
  if (exponent == (1 << kExponent) - 1) return mantissa ? NAN : sign * INFINITY;
  const int whole = exponent ? mantissa + (1 << kMantissa) : mantissa;
  return sign * std::ldexp(static_cast<float>(whole),
                           std::max(exponent, 1) - kBias - kMantissa);
}

}  // namespace emulated

inline float to_float(float v) { return v; }
inline float to_float(Half v) { return emulated::expanded<10>(v.bits); }
inline float to_float(BFloat16 v) { return emulated::expanded<7>(v.bits); }
template <typename T>
T from_float(float v) {
  if constexpr (std::is_same_v<T, float>)
    return v;
  else
    return T{emulated::rounded<std::is_same_v<T, Half> ? 10 : 7>(v)};
}
template <typename T>
uint32_t pair_of(float low, float high, T) {
  return from_float<T>(low).bits | static_cast<uint32_t>(from_float<T>(high).bits) << 16;
}
template <typename T>
uint32_t subtract_pairs(uint32_t a, uint32_t b, T tag) {
  const auto part = [](uint32_t word, int i) {
    return to_float(T{static_cast<uint16_t>(word >> 16 * i)});
  };
  return pair_of(part(a, 0) - part(b, 0), part(a, 1) - part(b, 1), tag);
}
inline uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t both = a | static_cast<uint64_t>(b) << 32;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i)
    result |= static_cast<uint32_t>(both >> 8 * (selector >> 4 * i & 7) & 0xFF) << 8 * i;
  return result;
}

// Products of tensor cores: D (16 x 8) += A (16 x k) B (k x 8), whose parts the lanes hold
// as the hardware lays down. With n numbers in a word, register r of A holds row
// g + 8 (r % 2), columns n t + 4 n (r / 2) + {0, ..., n - 1}; register r of B holds column
// g, rows n t + 4 n r + {0, ..., n - 1}; and entry e of D row g + 8 (e / 2), column
// 2 t + e % 2.

namespace emulated {

template <typename Sum, typename T, typename Exact>
void matrix_product(Sum (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  struct In {
    uint32_t a[4], b[2];
    Sum d[4];
  };
  struct Out {
    Sum d[4];
  };
  In mine{};
  std::memcpy(mine.a, a, sizeof a);
  std::memcpy(mine.b, b, sizeof b);
  std::memcpy(mine.d, d, sizeof d);
  constexpr int n = 4 / sizeof(T);
  const auto part = [](uint32_t word, int i) -> Exact {
    T value;
    const uint32_t shifted = word >> (8 * sizeof(T) * i);
    std::memcpy(&value, &shifted, sizeof(T));
    if constexpr (std::is_same_v<T, int8_t>)
      return value;
    else
      return to_float(value);
  };
  const Out out = together<Out>("multiply_add", mine, [&](const In* in, Out* result) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const int g = lane / 4, t = lane % 4;
      for (int e = 0; e < 4; ++e) {
        Exact sum = in[lane].d[e];
        for (int k = 0; k < 8 * n; ++k) {
          const int owner = k % (4 * n) / n, word = k / (4 * n);
          sum += part(in[4 * g + owner].a[e / 2 + 2 * word], k % n) *
                 part(in[4 * (2 * t + e % 2) + owner].b[word], k % n);
        }
        result[lane].d[e] = static_cast<Sum>(sum);
      }
    }
  });
  std::memcpy(d, out.d, sizeof d);
}

}  // namespace emulated

inline void multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Half) {
  emulated::matrix_product<float, Half, double>(d, a, b);
}
inline void multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                         BFloat16) {
  emulated::matrix_product<float, BFloat16, double>(d, a, b);
}
inline void multiply_add(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                         int8_t) {
  emulated::matrix_product<int32_t, int8_t, int64_t>(d, a, b);
}

template <typename... Parameters, typename... Arguments>
int launch(void (*kernel)(Parameters...), Index3 grid, int threads, size_t shared_bytes,
           Stream, Arguments... arguments) {
  emulated::Machine& m = emulated::machine();
  const std::lock_guard<std::mutex> guard(m.mutex);
  if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.y > 65535 || grid.z > 65535 ||
      threads < 1 || threads > 1024 || shared_bytes > static_cast<size_t>(m.shared_memory)) {
    m.message = "the size of the launch is not one that a GPU takes";
    return 9;  // as CUDA counts its errors
  }
  const std::function<void()> body = [&] { kernel(arguments...); };
  return m.run(grid, threads, shared_bytes, body) ? 0 : 719;
}

inline int n_multiprocessors() { return emulated::machine().multiprocessors; }
inline int most_shared_memory() { return emulated::machine().shared_memory; }
inline const char* error_string(int code) {
  return code == 0 ? "no error" : emulated::machine().message.c_str();
}

}  // namespace uqlib
