// The index maps and decoders of layout.cuh as functions that a test can call.
#include "layout.cuh"

namespace {

// The codes of one tile by both decoders; what they read are the words of its lanes.
template <int kBits>
void decode(const uint32_t* tile, int lane_stride, int* of_pairs, int* of_bytes) {
  for (int lane = 0; lane < uqlib::kLanes; ++lane) {
    const uint32_t* words = tile + lane * lane_stride;
    for (int r = 0; r < 4; ++r) {
      for (int j = 0; j < 4; ++j) {
        const uint32_t pair = uqlib::pair_of_codes<kBits>(words, j, r);
        of_pairs[(lane * 4 + j) * 4 + r] = static_cast<int>(pair);
      }
      for (int h = 0; h < 2; ++h) {
        const uint32_t bytes = uqlib::bytes_of_codes<kBits>(words, h, r);
        of_bytes[(lane * 2 + h) * 4 + r] = static_cast<int>(bytes);
      }
    }
  }
}

}  // namespace

extern "C" {

int host_sizes(int bits, int which) {
  return which == 0   ? uqlib::words_of_tile(bits)
         : which == 1 ? uqlib::tiles_of_step(bits)
                      : uqlib::columns_of_step(bits);
}

// Lane, word and bit of all places of a tile: (16, 64, 3).
void host_places_of_codes(int bits, int* out) {
  for (int row = 0; row < uqlib::kTileRows; ++row) {
    for (int column = 0; column < uqlib::kTileColumns; ++column) {
      const uqlib::Place place = uqlib::place_of_code(bits, row, column);
      *out++ = place.lane;
      *out++ = place.word;
      *out++ = place.bit;
    }
  }
}

void host_places_of_inputs(int bits, int* out) {
  for (int column = 0; column < uqlib::kTileColumns; ++column)
    out[column] = uqlib::place_of_input(bits, column);
}

// For n_tiles tiles of `bits` words a lane, lane after lane: (n_tiles, 32, 4, 4) words of
// pairs and (n_tiles, 32, 2, 4) words of bytes.
void host_decode(int bits, const uint32_t* words, int n_tiles, int* of_pairs,
                 int* of_bytes) {
  const auto one = bits == 4 ? decode<4> : bits == 2 ? decode<2> : decode<1>;
  for (int i = 0; i < n_tiles; ++i)
    one(words + i * 32 * bits, bits, of_pairs + i * 32 * 16, of_bytes + i * 32 * 8);
}

// Columns of x at all padded places; returns whether rows need not be moved.
int host_columns(const uqlib::Columns* columns, int* out) {
  for (int place = 0; place < columns->n_columns; ++place) {
    const uqlib::Run run = uqlib::run_at(*columns, place - place % uqlib::kRun);
    const int within = place % uqlib::kRun;
    out[place] = within < run.count ? run.column + within : -1;
  }
  return columns->are_plain();
}

}  // extern "C"
