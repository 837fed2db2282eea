// How the work of a product with many rows is cut, and how a block lays down its inputs.
//
// A block makes tiles of y: 256 outputs (`kStripTiles` tiles of weights, a strip) by
// `rows_of_tile` rows of x. A tile takes `n_steps` steps, each of the columns that a lane
// loads at once. All steps of all tiles, those of a tile one after another and the tiles
// of a strip too (so that blocks that work at the same time read the same weights), are
// cut into runs of `length` steps, one for each block. Of a tile that a run covers from
// the first step to the last it writes y; of any other it writes its sums to `parts`,
// which a second kernel adds in the order of the steps. A run begins within one tile and
// ends within one, so that it writes at most two of them: slot 0 is for the former.
#pragma once

#include "layout.cuh"

namespace uqlib::gemm {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kLanes;
constexpr int kWarpTiles = 2;  // tiles of weights of a warp: each input is read for both
constexpr int kStripTiles = kWarps * kWarpTiles;
constexpr int kFewRows = 32, kManyRows = 64;

UQLIB_BOTH int rows_of_tile(int n_rows) { return n_rows <= kFewRows ? kFewRows : kManyRows; }

// Blocks for which a multiprocessor has room: registers hold the sums of one with many
// rows, of two with few.
UQLIB_BOTH constexpr int blocks_of(int tile_rows) { return tile_rows == kFewRows ? 2 : 1; }

struct Cut {
  int n_tiles, n_runs, length;
  int n_row_tiles, n_steps, tile_rows;

  UQLIB_BOTH int64_t floats_of_part() const {
    return int64_t{kStripTiles} * kTileRows * tile_rows;
  }
  UQLIB_BOTH bool has_parts() const { return length % n_steps != 0 && n_runs > 1; }
  UQLIB_BOTH int64_t floats_of_parts() const {
    return has_parts() ? int64_t{2} * n_runs * floats_of_part() : 0;
  }
  UQLIB_BOTH int first_tile(int run) const { return run * length / n_steps; }
  // The run that has a step of a tile.
  UQLIB_BOTH int run_of(int tile, int step) const {
    return (tile * n_steps + step) / length;
  }
};

// What a run does of a tile: steps first, ..., last - 1; `part` counts the parts of all
// runs and is -1 where the run has all steps. Empty, first = last, behind its last tile.
struct Piece {
  int first, last, part;
};

UQLIB_BOTH Piece piece_of(const Cut& cut, int run, int tile) {
  const int begin = run * cut.length - tile * cut.n_steps;
  const int end = begin + cut.length;
  Piece piece;
  piece.first = begin > 0 ? begin : 0;
  piece.last = end < cut.n_steps ? end : cut.n_steps;
  if (tile >= cut.n_tiles || piece.last < piece.first) piece.last = piece.first = 0;
  const bool whole = piece.last - piece.first == cut.n_steps;
  piece.part = whole ? -1 : 2 * run + (begin < 0);
  return piece;
}

// The tile within which runs `before` and `before` + 1 meet if they are the first two of
// it, else -1: so each tile that is shared comes once.
UQLIB_BOTH int shared_tile(const Cut& cut, int before) {
  const int meeting = (before + 1) * cut.length;
  const int tile = meeting / cut.n_steps;
  const int first = tile * cut.n_steps;
  return meeting > first && before * cut.length <= first ? tile : -1;
}

// Steps of all tiles, at most: numbers of steps have 32 bits, with room for a run more.
constexpr int64_t kMostSteps = 1 << 29;

UQLIB_BOTH int64_t tiles_of(int n_rows, int n_out) {
  return ((n_out - 1) / (kStripTiles * kTileRows) + int64_t{1}) *
         ((n_rows - 1) / rows_of_tile(n_rows) + 1);
}
inline bool is_cut(int n_rows, int n_out, int n_columns, int bits) {
  return tiles_of(n_rows, n_out) <= kMostSteps / (n_columns / columns_of_step(bits));
}

// Runs have the same length, but for the last one. It is made up to a sixteenth longer
// than it must be where runs then end with tiles, or all tiles are cut alike: that saves
// parts. Runs of less than four steps cost more to add than they save.
inline Cut cut_of(int n_rows, int n_out, int n_columns, int bits, int multiprocessors) {
  Cut cut;
  cut.tile_rows = rows_of_tile(n_rows);
  cut.n_row_tiles = (n_rows - 1) / cut.tile_rows + 1;
  cut.n_steps = n_columns / columns_of_step(bits);
  cut.n_tiles = static_cast<int>(tiles_of(n_rows, n_out));
  const int total = cut.n_tiles * cut.n_steps;
  const int64_t n_blocks = int64_t{multiprocessors} * blocks_of(cut.tile_rows);
  const int n_steps = cut.n_steps, least = n_steps < 4 ? n_steps : 4;
  cut.length = static_cast<int>((total - 1) / n_blocks) + 1;
  if (cut.length < least) cut.length = least;
  int even = 0;
  if (cut.length >= n_steps)
    even = ((cut.length - 1) / n_steps + 1) * n_steps;
  else if (n_steps % (n_steps / cut.length) == 0)
    even = n_steps / (n_steps / cut.length);
  if (even > cut.length && even - cut.length <= cut.length / 16) cut.length = even;
  cut.n_runs = (total - 1) / cut.length + 1;
  return cut;
}

// Inputs lie in shared memory tile by tile of 64 columns, row by row, in chunks of 16
// bytes. Lanes 4 g + t of a phase of eight read of two rows that follow each other four
// chunks: t or 4 + t, with 8 bits 2 t or 2 t + 1 (rows of eight chunks), or t (rows of
// four). The latter are eight in a row. The former would meet in the same banks; with the
// numbers of the chunks of every second row xor 5 they are
//     {0, 1, 2, 3} and {5, 4, 7, 6},   or   {0, 2, 4, 6} and {5, 7, 1, 3}.
template <int kChunks>
UQLIB_BOTH constexpr int place_of_chunk(int row, int chunk) {
  static_assert(kChunks == 4 || kChunks == 8);
  return row * kChunks + (kChunks == 8 ? chunk ^ (5 * (row & 1)) : chunk);
}

}  // namespace uqlib::gemm
