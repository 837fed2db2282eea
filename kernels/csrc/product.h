// The operands of a product, as launchers and kernels share them.
#pragma once

#include "layout.cuh"

namespace uqlib {

// A product y = x W^T with a packed weight. Rows of x have `n_columns` columns: those of
// the groups with their padding, then zeros up to a multiple of columns_of_step(bits).
struct Product {
  const void* x;               // (n_rows, n_columns) of T; bytes as place_of_input says
  const void* weight;          // 8 bits: (n_out, n_columns) of int8, q - 128; else
                               // (n_out / 16, n_columns / columns_of_step, 32, 16 bytes)
  const float* scale;          // (n_out / 16, n_groups, 16)
  const float* zero;           // as scale, or null: uniform_zero for all
  const uint32_t* pairs;       // (256,): C[i % 16] and, in the upper half, C[i / 16]
                               // in T; null without a codebook
  const float* bias;           // (n_true_out,) or null
  const float* row_scale;      // (n_rows,) by which results are multiplied, or null
  const int32_t* group_sums;   // (n_rows, n_groups) of the bytes of x; null for floats
  void* y;                     // (n_rows, n_true_out) of the type of the results
  float* parts;                // workspace of the kernel, where it needs one
  float uniform_zero;
  int n_rows, n_out, n_true_out;       // n_out is a multiple of 16
  int n_columns, group_columns, n_groups;  // columns of a group with its padding
};

}  // namespace uqlib
