// Prediction sets of classes: the labels whose penalized cumulative mass is at most t,
//
//     ((b_j + u r(p_j)) + lambda max(0, o_j - k)) <= t,      r(p) = (p + 1) - 1,
//
// with labels ranked by decreasing p, ties by index, o_j the rank of label j from 1 and
// b_j the mass of those before it. Masses are multiples of 2^-52 that add up to less than
// 2: sums of them are exact in double precision in any order, and so are the sets.
//
// Up to 32 classes a label is compared with every other. Beyond, no row is sorted: with
// u <= 1 scores do not decrease along the ranking, since b + r is exact and rounding
// keeps order, so a set is a prefix of it, found by bisection. Bits of a float that is
// not negative order as an integer, the key. Let H be the labels with keys >= hi, all of
// which are known to be in the set, and lo a key that occurs such that not all labels with
// keys >= lo are. A pass over the row looks at keys in [lo, hi), the open ones, and gets
//
//     n, M, least: number, mass and least key of those >= middle,   most: of those below.
//
// The last label of H and these n has b = M(H) + M - r(least), o = |H| + n. If it is in
// the set, all n join H; if not, lo = least. With hi = most + 1 after the first, the open
// interval shrinks to keys that occur, and in the end to one, lo. Of the labels with it,
// label i has b = M(H) + (i - 1) r(lo), o = |H| + i: a second bisection, without the row,
// says how many are in the set, and a third which of them is the last.
#pragma once

#include <cstring>

#include "machine.cuh"

namespace uqlib {

constexpr int kSetThreads = 256;
constexpr int kSetWarps = kSetThreads / kLanes;

struct MassSets {
  const void* proba;        // (n_rows, n_classes) of T, as the bits that they are
  const double* threshold;  // (n_rows,), t
  const double* u;          // (n_rows,)
  uint8_t* sets;            // (n_rows, n_classes)
  double penalty;           // lambda
  int64_t n_rows;
  int n_classes;
  int k_reg;  // k
  int lanes;  // few classes: threads of a row, a power of two
};

// ------------------------------------------------------------- keys, masses

template <typename T>
struct KeyOf;
template <>
struct KeyOf<float> {
  using type = uint32_t;
};
template <>
struct KeyOf<double> {
  using type = uint64_t;
};
template <typename T>
using Key = typename KeyOf<T>::type;

// Keys have no sign: -0.0 is 0.0.
UQLIB_DEVICE uint32_t key_at(const uint32_t* proba) { return load_kept(proba) & 0x7FFFFFFFu; }
UQLIB_DEVICE uint64_t key_at(const uint64_t* proba) {
  const Words2 words = load_kept(reinterpret_cast<const Words2*>(proba));
  return words.x | static_cast<uint64_t>(words.y & 0x7FFFFFFFu) << 32;
}

template <typename T>
UQLIB_DEVICE double mass_of(Key<T> key) {
  T value;
  memcpy(&value, &key, sizeof(T));
  return (static_cast<double>(value) + 1.0) - 1.0;
}

// Whether the label of a rank is in the set.
UQLIB_DEVICE bool is_in(const MassSets& p, double threshold, double u, double before,
                        double own, int rank) {
  const double excess = static_cast<double>(rank) - p.k_reg;
  return before + u * own + p.penalty * (excess > 0.0 ? excess : 0.0) <= threshold;
}

// ------------------------------------------------------------- few classes

// A label for each thread, `lanes` threads for a row.
template <typename T>
UQLIB_KERNEL UQLIB_THREADS(kSetThreads) few_classes(const MassSets p) {
  const int t = thread_index().x, lanes = p.lanes;
  const int64_t first_row = static_cast<int64_t>(block_index().x) * (kSetThreads / lanes);
  const int64_t row = first_row + t / lanes;
  const int j = t % lanes, first = t % kLanes - j;
  const bool mine = row < p.n_rows && j < p.n_classes;
  const int64_t at = row * p.n_classes + j;
  const Key<T> key = mine ? key_at(static_cast<const Key<T>*>(p.proba) + at) : 0;
  double before = 0.0;
  int rank = 1;
  for (int i = 0; i < p.n_classes; ++i) {
    const Key<T> other = shuffle(key, first + i);
    if (other > key || (other == key && i < j)) {
      before += mass_of<T>(other);
      ++rank;
    }
  }
  if (mine)
    p.sets[at] = is_in(p, p.threshold[row], p.u[row], before, mass_of<T>(key), rank);
}

// ------------------------------------------------------------ many classes

// What a pass over the open keys of a row finds.
template <typename T>
struct Found {
  double mass;
  Key<T> least, most;
  int count;

  UQLIB_DEVICE void add(const Found& other) {
    mass += other.mass;
    least = other.least < least ? other.least : least;
    most = other.most > most ? other.most : most;
    count += other.count;
  }
};

// The threads of a row: those of a warp, or of a block. All get the sum of what each
// found; those of a block leave it in two buffers in turn, so that one barrier is enough:
// nobody writes to the first again before all have read it and gone to the second.
template <typename T, bool kBlock>
struct Team {
  static constexpr int kThreads = kBlock ? kSetThreads : kLanes;
  Found<T>* buffers;  // (2, kSetWarps) for a block
  int turn;

  UQLIB_DEVICE Found<T> sum(Found<T> found) {
#pragma unroll
    for (int mask = kLanes / 2; mask > 0; mask /= 2) {
      Found<T> other;
      other.mass = shuffle_xor(found.mass, mask);
      other.least = shuffle_xor(found.least, mask);
      other.most = shuffle_xor(found.most, mask);
      other.count = shuffle_xor(found.count, mask);
      found.add(other);
    }
    if constexpr (kBlock) {
      Found<T>* buffer = buffers + turn * kSetWarps;
      turn ^= 1;
      const int t = thread_index().x;
      if (t % kLanes == 0) buffer[t / kLanes] = found;
      sync_block();
      found = buffer[0];
#pragma unroll
      for (int w = 1; w < kSetWarps; ++w) found.add(buffer[w]);
    }
    return found;
  }
};

// A row whose keys each thread keeps in shared memory: only those that it looks at itself,
// so that none waits for another. Rows without room there are read again and again.
template <typename T, bool kKept>
struct Row {
  const Key<T>* proba;
  Key<T>* kept;

  UQLIB_DEVICE Key<T> operator[](int j) const {
    if constexpr (kKept) return kept[j];
    return key_at(proba + j);
  }
};

// The set is the labels with keys > cut, and those with it up to the label `last`.
template <typename T>
struct Prefix {
  Key<T> cut;
  int last;
};

template <typename T, bool kBlock, bool kKept>
UQLIB_DEVICE Prefix<T> find_prefix(const MassSets& p, Row<T, kKept> row,
                                   Team<T, kBlock> team, double threshold, double u) {
  constexpr int kThreads = Team<T, kBlock>::kThreads;
  const int t = thread_index().x % kThreads, n = p.n_classes;
  constexpr Found<T> kNothing{0.0, static_cast<Key<T>>(-1), 0, 0};

  Found<T> found = kNothing;
#pragma unroll 4
  for (int j = t; j < n; j += kThreads) {
    const Key<T> key = key_at(row.proba + j);
    if constexpr (kKept) row.kept[j] = key;
    found.add({mass_of<T>(key), key, key, 1});
  }
  found = team.sum(found);
  const double own = mass_of<T>(found.least);
  if (is_in(p, threshold, u, found.mass - own, own, n)) return {0, n};

  Key<T> lo = found.least, hi = found.most + 1;
  double mass = 0.0;  // M(H)
  int count = 0;      // |H|
  while (hi - lo > 1) {
    const Key<T> middle = lo + (hi - lo + 1) / 2, width = hi - lo;
    found = kNothing;
#pragma unroll 4
    for (int j = t; j < n; j += kThreads) {
      const Key<T> key = row[j];
      if (static_cast<Key<T>>(key - lo) >= width) continue;
      if (key >= middle) {
        found.mass += mass_of<T>(key);
        found.least = key < found.least ? key : found.least;
        ++found.count;
      } else {
        found.most = key > found.most ? key : found.most;
      }
    }
    found = team.sum(found);
    if (found.count > 0) {
      const double least = mass_of<T>(found.least);
      const double before = mass + found.mass - least;
      if (!is_in(p, threshold, u, before, least, count + found.count)) {
        lo = found.least;
        continue;
      }
      mass += found.mass;
      count += found.count;
    }
    hi = found.most + 1;
  }

  // So many labels with the key lo, not all of them.
  const double each = mass_of<T>(lo);
  int ties = 0;
  for (int out = n - count; out - ties > 1;) {
    const int i = ties + (out - ties) / 2;
    const bool in = is_in(p, threshold, u, mass + (i - 1) * each, each, count + i);
    (in ? ties : out) = i;
  }
  if (ties == 0) return {lo, -1};
  // The last one: up to it there are as many, up to the label before it fewer.
  int below = -1, last = n - 1;
  while (last - below > 1) {
    const int middle = below + (last - below) / 2;
    found = kNothing;
    for (int j = t; j <= middle; j += kThreads) found.count += row[j] == lo;
    (team.sum(found).count >= ties ? last : below) = middle;
  }
  return {lo, last};
}

// A row for each warp or, with kBlock, for each block.
template <typename T, bool kBlock, bool kKept>
UQLIB_KERNEL UQLIB_THREADS(kSetThreads) many_classes(const MassSets p) {
  constexpr int kThreads = Team<T, kBlock>::kThreads;
  const int own = thread_index().x / kThreads, t = thread_index().x % kThreads;
  const int64_t i = static_cast<int64_t>(block_index().x) * (kSetThreads / kThreads) + own;
  if (i >= p.n_rows) return;
  Found<T>* buffers = shared_memory<Found<T>>();
  Key<T>* kept = reinterpret_cast<Key<T>*>(buffers + (kBlock ? 2 * kSetWarps : 0));
  const int64_t first = i * p.n_classes;
  const Row<T, kKept> row{static_cast<const Key<T>*>(p.proba) + first,
                          kept + own * p.n_classes};
  const Prefix<T> prefix =
      find_prefix<T, kBlock>(p, row, Team<T, kBlock>{buffers, 0}, p.threshold[i], p.u[i]);
#pragma unroll 4
  for (int j = t; j < p.n_classes; j += kThreads) {
    const Key<T> key = row[j];
    p.sets[first + j] = key > prefix.cut || (key == prefix.cut && j <= prefix.last);
  }
}

}  // namespace uqlib
