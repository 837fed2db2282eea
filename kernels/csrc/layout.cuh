// Where a code of a weight lies, and how it comes out.
//
// A tile of 16 rows (outputs) and 64 columns is what a warp reads at a time: lane
// 4 g + t holds rows g and g + 8 of it. For fewer than 8 bits its columns are
// 8 t, ..., 8 t + 7 of each half of 32 columns. A product m16n8k16 takes from a lane two
// pairs of columns of both rows; product j = 2 h + e of the four of a tile takes the
// columns 32 h + 8 t + 4 e + {0, 1, 2, 3}:
//
//     register 0: row g,     columns + 0, + 1      register 2: row g,     + 2, + 3
//     register 1: row g + 8, columns + 0, + 1      register 3: row g + 8, + 2, + 3.
//
// The hardware calls these columns 2 t, 2 t + 1, 2 t + 8, 2 t + 9 of its own 16; a sum
// over columns does not depend on their names, as long as the other operand has the same
// ones, so that a lane reads 8 consecutive inputs.
//
// A pair (j, register r) lies in one word of the lane, its first code at bit p and its
// second at bit p + 16:
//
//     4 bits: word j, p = 4 r     2 bits: word h, p = 8 e + 2 r     1 bit: p = 8 e + 4 h + r.
//
// A shift and a mask leave a code in the low bits of each half of a word, where it is
// the mantissa of a number in half precision: with the bits of 1024 around it, 1024 + q
// exactly (bfloat16: 128 + q, since q < 16). The same shift and the mask of one code in
// each byte leave four codes of one row as bytes, for products m16n8k32 of which
// product h takes the columns 32 h + 8 t + {0, ..., 7} in the order of `input_order`.
//
// Codes of 4 bits are stored as q xor 8 (but those of a codebook as they are): the nibble
// of q - 8 in two's complement, which in the upper half of a byte is the signed byte
// 16 (q - 8).
//
// A step is what a lane loads at once, 16 bytes: 4 / bits tiles that follow each other.
// Codes of 8 bits are stored as rows of signed bytes q - 128, since a product with many
// rows goes to a library that wants them so; lane 4 g + t then holds the columns
// 16 t, ..., 16 t + 15 of rows g and g + 8 of a tile, product j of four takes
// 16 t + 4 j + {0, ..., 3}, and product i of two (m16n8k32) takes 16 t + 8 i + {0, ..., 7}.
#pragma once

#include "machine.cuh"

namespace uqlib {

constexpr int kTileRows = 16;
constexpr int kTileColumns = 64;

// Words of 32 bits that a lane holds of a tile.
UQLIB_BOTH constexpr int words_of_tile(int bits) { return bits; }
// Tiles in the 16 bytes that a lane loads at once, for fewer than 8 bits.
UQLIB_BOTH constexpr int tiles_of_step(int bits) { return 4 / bits; }
// Rows are padded to a multiple of so many columns.
UQLIB_BOTH constexpr int columns_of_step(int bits) {
  return bits == 8 ? kTileColumns : kTileColumns * tiles_of_step(bits);
}

// What products of integers take off each code.
UQLIB_BOTH constexpr float integer_center(int bits) {
  return bits == 8 ? 128.0f : bits == 4 ? 8.0f : 0.0f;
}

struct Place {
  int lane, word, bit;
};

// Word of a lane of a tile, and bit, of the first code of a pair.
UQLIB_BOTH constexpr int word_of_pair(int bits, int j) {
  return bits == 4 ? j : bits == 2 ? j / 2 : 0;
}
UQLIB_BOTH constexpr int bit_of_pair(int bits, int j, int r) {
  return bits == 4 ? 4 * r : bits == 2 ? 8 * (j % 2) + 2 * r : 8 * (j % 2) + 4 * (j / 2) + r;
}

// Where the code of a row and a column of a tile lies, for fewer than 8 bits.
UQLIB_BOTH Place place_of_code(int bits, int row, int column) {
  const int t = column % 32 / 8, j = 2 * (column / 32) + column % 8 / 4;
  const int r = 2 * (column % 4 / 2) + row / 8;
  return {4 * (row % 8) + t, word_of_pair(bits, j),
          bit_of_pair(bits, j, r) + 16 * (column % 2)};
}

// Where byte of a row of a tile of activations the input of a column lies: the 16 bytes
// of lane t are together, those of each half in the order of the bytes of the codes.
UQLIB_BOTH constexpr int input_order(int bits, int i) {
  return bits == 4 ? (i & 4) | (i & 1) << 1 | (i & 2) >> 1
                   : (i & 1) << 1 | (i & 2) << 1 | (i & 4) >> 2;
}
UQLIB_BOTH constexpr int place_of_input(int bits, int column) {
  if (bits == 8) return column;
  return 16 * (column % 32 / 8) + 8 * (column / 32) + input_order(bits, column % 8);
}

// Both codes of pair (j, r), one in the low bits of each half of the result.
template <int kBits>
UQLIB_BOTH uint32_t pair_of_codes(const uint32_t* words, int j, int r) {
  constexpr uint32_t mask = ((1u << kBits) - 1u) * 0x00010001u;
  return (words[word_of_pair(kBits, j)] >> bit_of_pair(kBits, j, r)) & mask;
}

// Four codes of row r % 2 as bytes: register r of product h. Those of 4 bits are
// 16 (q - 8), as signed bytes.
template <int kBits>
UQLIB_BOTH uint32_t bytes_of_codes(const uint32_t* words, int h, int r) {
  static_assert(kBits == 4 || kBits == 2 || kBits == 1);
  if constexpr (kBits == 4) {
    const uint32_t word = words[2 * h + r / 2];
    return (r % 2 ? word : word << 4) & 0xF0F0F0F0u;
  }
  constexpr uint32_t mask = ((1u << kBits) - 1u) * 0x01010101u;
  const uint32_t word = words[word_of_pair(kBits, 2 * h)];
  return (word >> bit_of_pair(kBits, 2 * h, r)) & mask;
}

// How the columns of x lie among the padded ones of a weight. A group of `whole` columns
// is `parts` inner groups of `inner` columns (the last one may have fewer), each padded to
// `group_columns`; zeros follow up to `n_columns`.
struct Columns {
  int n_in, whole, inner, parts, group_columns, n_groups, n_columns;

  // Whether rows of x are rows of padded columns as they are.
  UQLIB_BOTH bool are_plain() const { return n_in == n_columns && parts * inner == whole; }
};

constexpr int kRun = 8;  // padded columns that are taken at once

// What the padded columns place, ..., place + 7 hold, place a multiple of 8: `count`
// columns of x from `column` on, then padding.
struct Run {
  int column, count;
};

UQLIB_BOTH Run run_at(const Columns& columns, int place) {
  if (columns.are_plain()) return {place, kRun};
  // Divisions of unsigned numbers take fewer instructions.
  const unsigned parts = columns.parts, width = columns.group_columns;
  const unsigned group = place / width;
  if (group >= static_cast<unsigned>(columns.n_groups)) return {0, 0};
  const int within = static_cast<int>(place - group * width);
  const int in_whole = static_cast<int>(group % parts) * columns.inner + within;
  const int column = static_cast<int>(group / parts) * columns.whole + in_whole;
  int count = columns.inner - within;
  if (columns.whole - in_whole < count) count = columns.whole - in_whole;
  if (columns.n_in - column < count) count = columns.n_in - column;
  return {column, count < 0 ? 0 : count < kRun ? count : kRun};
}

}  // namespace uqlib
