// How operands of products with more rows come to shared memory.
//
// Everything that a step of columns needs is copied in the background some steps ahead:
// inputs, which all warps of a block share, weights (each lane reads back what it copied),
// and scales, zero points and sums of the inputs of the groups that begin in it. On their
// way through shared memory weights take no registers; of 64 rows in 16 bits and 4 bits a
// weight they add 16 KiB, written and read, to 72 KiB of inputs in a step.
#pragma once

#include "gemm_cut.cuh"
#include "operands.cuh"

namespace uqlib::gemm {

constexpr int kSharedBudget = 104 * 1024;  // two blocks fit a multiprocessor
constexpr int kMostStages = 5;

// What a step is; one thread says so to all others, a step before it is copied.
struct alignas(16) Plan {
  int strip, row_tile, step;
  int group;  // of the first of `changes`
  unsigned changes, begins;  // slots at which scales change, those where a group begins
  int is_open, ends_tile;    // whether there is such a step; the last one of its tile
};
constexpr unsigned kPlans = 8;  // more than stages: those of steps in flight stay

// Sizes and places within shared memory, in bytes: a table of a codebook, plans, then
// stages of inputs, weights, scales with zero points, sums of groups.
template <typename T, int kBits, bool kCodebook, int kRowsOfTile>
struct Layout {
  using Element = T;
  using Multiplied = Operands<T, kBits, kCodebook>;
  using Sum = typename Multiplied::Sum;
  static constexpr bool kIntegers = std::is_same_v<T, int8_t>;
  static constexpr bool kTable = kCodebook;
  static constexpr int kBitsOf = kBits;
  static constexpr unsigned kRows = kRowsOfTile, kElementBytes = sizeof(T);
  static constexpr unsigned kTiles = columns_of_step(kBits) / kTileColumns;
  static constexpr unsigned kChunks = kTileColumns * kElementBytes / 16;
  static constexpr unsigned kLoads = kBits == 8 ? 2 : 1;  // of 16 bytes, of a tile or step
  static constexpr int kSlots = kTiles * kHalves<kBits>;  // groups that may begin
  static constexpr int kSlotColumns = kTileColumns / kHalves<kBits>;

  static constexpr int kWeightsAt = kTiles * kRows * kChunks * 16;
  static constexpr int kScalesAt = kWeightsAt + kStripTiles * kLoads * kLanes * 16;
  static constexpr int kSumsAt = kScalesAt + kSlots * kStripTiles * 2 * kTileRows * 4;
  static constexpr int kStageBytes = kSumsAt + kSlots * kRows * 4;
  static constexpr int kTableBytes = kCodebook ? kPairsBytes : 0;
  static constexpr int kPlansBytes = static_cast<int>(kPlans * sizeof(Plan)) + 32;
  static constexpr int kFitting = (kSharedBudget - kTableBytes - kPlansBytes) / kStageBytes;
  static constexpr unsigned kStages = kFitting > kMostStages ? kMostStages
                                      : kFitting < 2         ? 2
                                                             : kFitting;
  static constexpr int kBytes = kTableBytes + kPlansBytes + kStages * kStageBytes;

  // Scales (which = 0) or zero points (1) of the tiles of a warp, in floats of a stage.
  UQLIB_DEVICE static unsigned scales_at(unsigned slot, unsigned warp, unsigned which) {
    return kScalesAt / 4 + ((slot * kWarps + warp) * 2 + which) * kWarpTiles * kTileRows;
  }
};

UQLIB_DEVICE Piece own_piece(const Cut& cut, int strip, int row_tile) {
  return piece_of(cut, static_cast<int>(block_index().x),
                  strip * cut.n_row_tiles + row_tile);
}

// Goes through the steps of the run of a block. Columns behind the last group have inputs
// of zero and count as its own.
template <typename L>
struct Cursor {
  int strip, row_tile, step, last;
  int group, within;  // the next columns, counted in their group; ~group at the first ones

  UQLIB_DEVICE void begin(const Product& p, const Cut& cut) {
    const int tile = cut.first_tile(static_cast<int>(block_index().x));
    strip = tile / cut.n_row_tiles;
    row_tile = tile % cut.n_row_tiles;
    enter(p, cut);
  }
  UQLIB_DEVICE void enter(const Product& p, const Cut& cut) {
    const Piece piece = own_piece(cut, strip, row_tile);
    step = piece.first;
    last = piece.last;
    const int column = step * columns_of_step(L::kBitsOf);
    group = column / p.group_columns;
    if (group >= p.n_groups) group = p.n_groups - 1;
    within = column - group * p.group_columns;
    group = ~group;
  }
  // Goes by the columns of a slot; whether their scales are other than those before.
  UQLIB_DEVICE bool change(const Product& p) {
    bool changes = group < 0;
    if (changes) {
      group = ~group;
    } else if (within == p.group_columns && group + 1 < p.n_groups) {
      ++group;
      within = 0;
      changes = true;
    }
    within += L::kSlotColumns;
    return changes;
  }
  // What the next step is.
  UQLIB_DEVICE Plan next(const Product& p, const Cut& cut) {
    Plan plan{strip, row_tile, step, 0, 0, 0, step < last, step + 1 == last};
    if (!plan.is_open) return plan;
#pragma unroll
    for (unsigned slot = 0; slot < L::kSlots; ++slot) {
      if (!change(p)) continue;
      if (plan.changes == 0) plan.group = group;
      plan.changes |= 1u << slot;
      if (within == L::kSlotColumns) plan.begins |= 1u << slot;
    }
    if (++step == last) {
      if (++row_tile == cut.n_row_tiles) {
        row_tile = 0;
        ++strip;
      }
      enter(p, cut);
    }
    return plan;
  }
};

// First tile of weights of a warp.
UQLIB_DEVICE unsigned first_weight_of(unsigned strip, unsigned warp) {
  return strip * kStripTiles + warp * kWarpTiles;
}

// Begins the copies of a step. Numbers are unsigned, and products of 32 bits, for the sake
// of short address arithmetic.
template <typename L>
UQLIB_DEVICE void feed(const Plan& plan, const Product& p, char* stage, unsigned thread) {
  const unsigned lane = thread % kLanes, warp = thread / kLanes;
  const unsigned n_weights = static_cast<unsigned>(p.n_out) / kTileRows;
  const unsigned n_rows = static_cast<unsigned>(p.n_rows);
  const unsigned n_columns = static_cast<unsigned>(p.n_columns);
  const unsigned first_row = plan.row_tile * L::kRows;
  const unsigned first_weight = first_weight_of(plan.strip, warp);
  const unsigned step = plan.step;
  {
    constexpr unsigned n_chunks = L::kTiles * L::kRows * L::kChunks;
    constexpr unsigned n_passes = (n_chunks + kThreads - 1) / kThreads;
    const unsigned chunk = thread % L::kChunks;
#pragma unroll
    for (unsigned pass = 0; pass < n_passes; ++pass) {
      const unsigned row_of_all = thread / L::kChunks + pass * (kThreads / L::kChunks);
      const unsigned u = row_of_all / L::kRows, row = row_of_all % L::kRows;
      if (n_chunks % kThreads != 0 && u >= L::kTiles) break;
      const bool valid = first_row + row < n_rows;
      const unsigned column = (step * L::kTiles + u) * kTileColumns;
      const uint64_t from_row = valid ? first_row + row : 0;
      const char* from = static_cast<const char*>(p.x) +
                         from_row * (n_columns * L::kElementBytes) +
                         column * L::kElementBytes + chunk * 16;
      const unsigned to = u * L::kRows * L::kChunks + place_of_chunk<L::kChunks>(row, chunk);
      copy_async(stage + to * 16, from, valid);
    }
  }
#pragma unroll
  for (unsigned i = 0; i < kWarpTiles; ++i) {
    const bool valid = first_weight + i < n_weights;
    const unsigned weight = valid ? first_weight + i : 0;
    const char* from = static_cast<const char*>(p.weight);
    char* to = stage + L::kWeightsAt + (warp * kWarpTiles + i) * (L::kLoads * kLanes * 16);
    if constexpr (L::kBitsOf == 8) {
      const uint64_t row = weight * kTileRows + lane / 4;
      from += row * n_columns + (step * kTileColumns + 16 * (lane % 4));
      copy_async(to + lane * 16, from, valid);
      copy_async(to + (kLanes + lane) * 16, from + uint64_t{8} * n_columns, valid);
    } else {
      const unsigned n_steps = n_columns / columns_of_step(L::kBitsOf);
      from += uint64_t{weight} * (n_steps * (kLanes * 16u)) + (step * kLanes + lane) * 16;
      copy_async(to + lane * 16, from, valid);
    }
  }
  constexpr unsigned n_scales = kWarpTiles * kTileRows / 4;  // lanes that copy, four each
  const float* source = lane < n_scales ? p.scale : p.zero;
  const unsigned n_groups = static_cast<unsigned>(p.n_groups);
  unsigned group = plan.group;
#pragma unroll
  for (unsigned slot = 0; slot < L::kSlots; ++slot) {
    if (!(plan.changes >> slot & 1)) continue;
    if (lane < 2 * n_scales && source != nullptr) {
      const unsigned which = lane / n_scales, weight = first_weight + lane % n_scales / 4;
      const bool valid = weight < n_weights;
      const uint64_t tile = uint64_t{valid ? weight : 0} * n_groups + group;
      copy_async(reinterpret_cast<float*>(stage) + L::scales_at(slot, warp, which) +
                     4 * (lane % n_scales),
                 source + tile * kTileRows + 4 * (lane % 4), valid);
    }
    if ((plan.begins >> slot & 1) && p.group_sums != nullptr && thread < L::kRows) {
      const bool valid = first_row + thread < n_rows;
      const uint64_t row = valid ? first_row + thread : 0;
      copy_word_async(stage + L::kSumsAt + (slot * L::kRows + thread) * 4,
                      p.group_sums + row * n_groups + group, valid);
    }
    ++group;
  }
}

}  // namespace uqlib::gemm
