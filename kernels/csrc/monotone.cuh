// Rows of quantiles made monotone: sorted, or projected in least squares.
//
// Most rows are monotone already, so the work is that of a copy: a block brings its rows
// into shared memory as they lie (16 bytes at a time, in the background), looks at each
// once, mends those that cross, and writes all of them back. Rows that cross are listed
// first, so that the lanes of a warp that mends are not spread over rows that need none.
//
// 1 << shift = `lanes` threads look at a row, and no two of them are to meet in a bank.
// Shared memory has B = 128 / sizeof(T) banks of a number; thread p of row r begins at
// column p + turn and goes round. It is in bank r m + p + turn (mod B), which is
// p + r lanes for turn = r (lanes - m) mod B: no other of B consecutive threads is there.
// (Rows with several threads have more than B levels.) Alone in a row, r m takes B / g
// values, each g = gcd(m, B) times, and turn = r / (B / g) mod g keeps those apart; g
// divides m, so that going round leaves each thread its residue mod g.
#pragma once

#include "machine.cuh"

namespace uqlib {

constexpr int kRowThreads = 256;
constexpr int kRowWarps = kRowThreads / kLanes;
constexpr int kWidestInsertion = 32;  // levels of rows that one thread sorts

// How a block goes over rows, and where things are in its shared memory, in bytes.
struct RowPlan {
  int rows;      // of a block
  int shift;     // 1 << shift threads look at a row, at most a warp
  int common;    // gcd(n_levels, banks of a number)
  int stacks;    // rows that are projected at a time
  int weight, pools, list;  // after the rows: level weights, stacks, crossing rows
  int bytes;
  bool vectors;  // rows of a block begin at multiples of 16 bytes
};

struct MonotoneRows {
  const void* q;               // (n_rows, n_levels) of T
  void* out;                   // the same
  const double* level_weight;  // (n_levels,), up to a power of two; null: all equal
  int32_t* found_nan;          // becomes 1 if q has NaN; may be null
  int64_t n_rows;
  int n_levels;
  RowPlan plan;
};

// Bytes of a pool on a stack: mean, weight, total and the levels where it begins and ends.
constexpr int kPoolBytes = 3 * 8 + 4;

// Places in shared memory for so many rows and stacks, and the bytes of all.
inline int64_t place(RowPlan& plan, int n_levels, int size, bool project) {
  int64_t end = (static_cast<int64_t>(n_levels) * size * plan.rows + 15) / 16 * 16;
  plan.weight = static_cast<int>(end);
  if (project) {
    end += 8 * static_cast<int64_t>(n_levels);
    plan.pools = static_cast<int>(end);
    end += static_cast<int64_t>(n_levels / 2) * kPoolBytes * plan.stacks;
  }
  plan.list = static_cast<int>(end);
  return end + 4 * (plan.rows + kRowWarps);
}

// A plan for blocks of at most so many bytes of shared memory; without rows if there is
// none.
inline RowPlan plan_rows(int n_levels, int size, bool project, int most_bytes) {
  const int64_t row = static_cast<int64_t>(n_levels) * size;
  RowPlan plan{kRowThreads, 0, 1, 0, 0, 0, 0, 0, false};
  // Eight blocks of 256 threads are what a multiprocessor holds; less memory than a
  // fifth of what it has keeps at least five of them there.
  while (1 << plan.shift < kLanes && plan.rows * row > 40 * 1024) {
    plan.rows /= 2;
    ++plan.shift;
  }
  while (plan.common < 128 / size && n_levels % (2 * plan.common) == 0) plan.common *= 2;
  const int64_t stack = static_cast<int64_t>(n_levels / 2) * kPoolBytes;
  plan.stacks = plan.rows < 64 ? plan.rows : 64;
  while (plan.stacks > kLanes && plan.stacks * stack > 24 * 1024) plan.stacks /= 2;
  while (plan.stacks > 1 && plan.stacks * stack > 64 * 1024) plan.stacks /= 2;
  int64_t bytes = place(plan, n_levels, size, project);
  while (bytes > most_bytes && (plan.rows > 1 || plan.stacks > 1)) {
    if (plan.stacks > 1 && project && plan.stacks * stack > plan.rows * row)
      plan.stacks /= 2;
    else
      plan.rows = plan.rows > 1 ? plan.rows / 2 : 1;
    if (plan.stacks > plan.rows || !project) plan.stacks = plan.rows;
    bytes = place(plan, n_levels, size, project);
  }
  plan.rows = bytes > most_bytes ? 0 : plan.rows;
  plan.bytes = static_cast<int>(bytes);
  return plan;
}

// Copies `count` numbers of rows that lie together into shared memory.
template <typename T>
UQLIB_DEVICE void load_rows(const T* from, T* rows, int count, bool vectors) {
  constexpr int kLot = 16 / sizeof(T);
  const int t = thread_index().x;
  int done = 0;
  if (vectors) {
    done = count / kLot * kLot;
    for (int e = t * kLot; e < done; e += kRowThreads * kLot)
      copy_async(rows + e, from + e, true);
  }
  commit_copies();
#pragma unroll 4
  for (int e = done + t; e < count; e += kRowThreads) rows[e] = from[e];
  wait_for_copies<0>();
}

template <typename T>
UQLIB_DEVICE void store_rows(const T* rows, T* to, int count, bool vectors) {
  constexpr int kLot = 16 / sizeof(T);
  const int t = thread_index().x;
  int done = 0;
  if (vectors) {
    done = count / kLot * kLot;
    for (int e = t * kLot; e < done; e += kRowThreads * kLot)
      *reinterpret_cast<Words4*>(to + e) = *reinterpret_cast<const Words4*>(rows + e);
  }
#pragma unroll 4
  for (int e = done + t; e < count; e += kRowThreads) to[e] = rows[e];
}

// Whether a thread sees in its part of a row what is to be mended: a descent or, where NaN
// is looked for, NaN. Comparisons with NaN are false: it makes no descent.
template <typename T, bool kFindNan>
UQLIB_DEVICE bool sees_descent(const T* rows, int r, int part, const MonotoneRows& p) {
  constexpr int kBanks = 128 / sizeof(T);
  const int lanes = 1 << p.plan.shift, m = p.n_levels;
  const T* row = rows + r * m;
  const int turn = lanes == 1 ? (r % kBanks) * p.plan.common / kBanks
                              : (r * (lanes - m)) & (kBanks - 1);
  bool descends = false, nan = false;
  const auto look = [&](int k) {
    const T value = row[k], next = row[k + 1 < m ? k + 1 : k];
    descends |= next < value;
    if constexpr (kFindNan) nan |= value != value;
  };
  int k = part + turn;
#pragma unroll 4
  for (; k < m; k += lanes) look(k);
#pragma unroll 1
  for (k -= m; k < turn; k += lanes) look(k);
  if (nan && p.found_nan != nullptr) *p.found_nan = 1;
  return descends || nan;
}

// Lists the rows of a block that cross; returns how many there are. All threads call it.
template <typename T, bool kFindNan>
UQLIB_DEVICE int list_crossing(const T* rows, int n_rows, const MonotoneRows& p, int* list) {
  const int t = thread_index().x, lanes = 1 << p.plan.shift;
  const int r = t >> p.plan.shift, part = t & (lanes - 1);
  const bool crosses = r < n_rows && sees_descent<T, kFindNan>(rows, r, part, p);

  // A row is entered by its first lane, behind those of the lanes and warps before.
  int* of_warp = list + p.plan.rows;
  const int lane = t % kLanes, warp = t / kLanes;
  const uint32_t any = ballot(crosses);
  const uint32_t of_row = any >> (lane - part) & (~0u >> (kLanes - lanes));
  const uint32_t entered = ballot(part == 0 && of_row != 0);
  if (lane == 0) of_warp[warp] = count_bits(entered);
  sync_block();
  int before = 0, all = 0;
#pragma unroll
  for (int w = 0; w < kRowWarps; ++w) {
    before += w < warp ? of_warp[w] : 0;
    all += of_warp[w];
  }
  if (all == 0) return 0;
  if (entered >> lane & 1) list[before + count_bits(entered & ((1u << lane) - 1))] = r;
  sync_block();
  return all;
}

// ------------------------------------------------------------------ sorting

// NaN has no place in an order: a row with one becomes NaN.

// One thread sorts a row by insertion: it is nearly sorted most of the time.
template <typename T>
UQLIB_DEVICE void insert_levels(T* row, int m) {
  bool nan = false;
  for (int a = 0; a < m; ++a) nan |= row[a] != row[a];
  if (nan) {
    for (int a = 0; a < m; ++a) row[a] = static_cast<T>(NAN);
    return;
  }
  for (int a = 1; a < m; ++a) {
    const T value = row[a];
    int b = a;
    for (; b > 0 && value < row[b - 1]; --b) row[b] = row[b - 1];
    row[b] = value;
  }
}

template <typename T>
UQLIB_DEVICE void exchange(T* row, int low, int high) {
  const T a = row[low], b = row[high];
  if (b < a) {
    row[low] = b;
    row[high] = a;
  }
}

// A warp sorts a row by merging: runs of `half` numbers to runs of twice as many. The
// second run is met backwards, so that of every pair the first is to be the smaller; what
// would lie behind the row is larger than all of it and never moves.
template <typename T>
UQLIB_DEVICE void merge_levels(T* row, int m) {
  const int lane = thread_index().x % kLanes;
  bool nan = false;
  for (int i = lane; i < m; i += kLanes) nan |= row[i] != row[i];
  const bool any_nan = ballot(nan) != 0;
  sync_warp();  // all have read the row
  if (any_nan) {
    for (int i = lane; i < m; i += kLanes) row[i] = static_cast<T>(NAN);
    return;
  }
  for (int half = 1; half < m; half *= 2) {
    for (int i = lane; i < m; i += kLanes) {
      const int other = i ^ (2 * half - 1);
      if (i < other && other < m) exchange(row, i, other);
    }
    sync_warp();
    for (int distance = half / 2; distance > 0; distance /= 2) {
      for (int i = lane; i < m; i += kLanes) {
        const int other = i ^ distance;
        if (i < other && other < m) exchange(row, i, other);
      }
      sync_warp();
    }
  }
}

// --------------------------------------------------------------- projection

// Pool adjacent violators, as on the CPU, operation by operation. The levels so far are
// cut into pools with increasing means; the last one is in registers. Before it lie pools
// of one level, of which the row knows everything (mean q_k, total w_k q_k), and those of
// several, which are on a stack: at most m / 2.
struct PoolStack {
  double *mean, *weight, *total;
  uint32_t* levels;  // the first, and in the upper half the one behind the last
  int apart;         // from one entry to the next: the stacks lie side by side
  int depth;

  UQLIB_DEVICE int first(int i) const { return levels[i * apart] & 0xFFFF; }
  UQLIB_DEVICE int end(int i) const { return levels[i * apart] >> 16; }
  // Whether the pool before level k has several levels.
  UQLIB_DEVICE bool ends_at(int k) const { return depth > 0 && end(depth - 1) == k; }
};

template <typename T>
UQLIB_DEVICE void project_row(T* row, const double* level_weight, int m, PoolStack stack) {
  int start = 0, k = 1;  // levels of the last pool
  double mean = row[0], weight = level_weight[0], total = weight * mean;
  double below = -INFINITY;  // mean of the pool before
  for (;;) {
    if (!(below > mean)) {
      const int first = k;
      double value = 0.0;
      for (; k < m && (value = row[k], value >= mean); ++k) {
        if (k == first && k - start > 1) {
          const int at = stack.depth++ * stack.apart;
          stack.mean[at] = mean;
          stack.weight[at] = weight;
          stack.total[at] = total;
          stack.levels[at] = start | k << 16;
        }
        start = k;
        below = mean;
        mean = value;
      }
      if (k == m) break;
      if (k > first) {
        weight = level_weight[start];
        total = weight * mean;
      }
      weight += level_weight[k];
      total += level_weight[k] * value;
      ++k;
    } else {
      if (stack.ends_at(start)) {
        const int at = --stack.depth * stack.apart;
        weight += stack.weight[at];
        total += stack.total[at];
        start = stack.first(stack.depth);
      } else {
        --start;
        weight += level_weight[start];
        total += level_weight[start] * row[start];
      }
      below = start == 0               ? -INFINITY
              : stack.ends_at(start) ? stack.mean[(stack.depth - 1) * stack.apart]
                                     : static_cast<double>(row[start - 1]);
    }
    mean = total / weight;
  }
  if (m - start > 1)
    for (int j = start; j < m; ++j) row[j] = static_cast<T>(mean);
  for (int i = 0; i < stack.depth; ++i)
    for (int j = stack.first(i), end = stack.end(i); j < end; ++j)
      row[j] = static_cast<T>(stack.mean[i * stack.apart]);
}

// Weights times the power of two that brings their sum below one: then no weighted sum
// exceeds the largest |q|, and a power of two changes no digit of any mean.
UQLIB_DEVICE void scale_weights(const double* level_weight, double* scaled, int m) {
  const int t = thread_index().x;
  double most = level_weight == nullptr ? 1.0 : 0.0;
  if (level_weight != nullptr) {
#pragma unroll 1
    for (int k = t % kLanes; k < m; k += kLanes)
      most = level_weight[k] > most ? level_weight[k] : most;
#pragma unroll
    for (int mask = kLanes / 2; mask > 0; mask /= 2) {
      const double other = shuffle_xor(most, mask);
      most = other > most ? other : most;
    }
  }
  int exponent = 0, length = 0;
  frexp(most, &exponent);
  while (m >> length) ++length;
#pragma unroll 1
  for (int k = t; k < m; k += kRowThreads)
    scaled[k] = ldexp(level_weight == nullptr ? 1.0 : level_weight[k], -exponent - length);
}

// ------------------------------------------------------------------ kernels

template <typename T, bool kProject>
UQLIB_KERNEL UQLIB_THREADS(kRowThreads) monotone_rows(const MonotoneRows p) {
  char* memory = shared_memory<char>();
  T* rows = reinterpret_cast<T*>(memory);
  int* list = reinterpret_cast<int*>(memory + p.plan.list);
  const int t = thread_index().x, m = p.n_levels;
  const int64_t first = static_cast<int64_t>(block_index().x) * p.plan.rows;
  const int64_t left = p.n_rows - first;
  const int n_rows = left < p.plan.rows ? static_cast<int>(left) : p.plan.rows;

  load_rows(static_cast<const T*>(p.q) + first * m, rows, n_rows * m, p.plan.vectors);
  sync_block();
  const int n_crossing = list_crossing<T, !kProject>(rows, n_rows, p, list);
  if (n_crossing > 0) {
    if constexpr (kProject) {
      double* weight = reinterpret_cast<double*>(memory + p.plan.weight);
      scale_weights(p.level_weight, weight, m);
      sync_block();
      const int stacks = p.plan.stacks, pools = stacks * (m / 2);
      double* mean = reinterpret_cast<double*>(memory + p.plan.pools);
      if (t < stacks) {
        const PoolStack stack{mean + t, mean + pools + t, mean + 2 * pools + t,
                              reinterpret_cast<uint32_t*>(mean + 3 * pools) + t, stacks, 0};
        for (int i = t; i < n_crossing; i += stacks)
          project_row(rows + list[i] * m, weight, m, stack);
      }
    } else if (m <= kWidestInsertion) {
      for (int i = t; i < n_crossing; i += kRowThreads) insert_levels(rows + list[i] * m, m);
    } else {
      for (int i = t / kLanes; i < n_crossing; i += kRowWarps)
        merge_levels(rows + list[i] * m, m);
    }
    sync_block();
  }
  store_rows(rows, static_cast<T*>(p.out) + first * m, n_rows * m, p.plan.vectors);
}

}  // namespace uqlib
