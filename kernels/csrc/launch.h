/* The kernels as functions of C: plain pointers, sizes and a stream.
 *
 * Each returns 0, or a code that uqlib_error_string explains; all pointers are memory of
 * the device, and nothing waits for the work to end. Types of numbers are counted as in
 * UqlibType. */
#ifndef UQLIB_LAUNCH_H
#define UQLIB_LAUNCH_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
namespace uqlib {
struct Product;
struct Columns;
}
typedef uqlib::Product UqlibProduct;
typedef uqlib::Columns UqlibColumns;
#else
typedef struct UqlibProduct UqlibProduct;
typedef struct UqlibColumns UqlibColumns;
#endif

enum UqlibType { UQLIB_FLOAT = 0, UQLIB_HALF = 1, UQLIB_BFLOAT16 = 2, UQLIB_INT8 = 3 };
enum { UQLIB_INVALID = -1 }; /* an argument that no kernel takes; no code of CUDA */

const char* uqlib_error_string(int code);
int uqlib_n_multiprocessors(void);

/* Products: `type` of x (not UQLIB_FLOAT), `out` of y (not UQLIB_INT8).
 * parts holds uqlib_skinny_parts / uqlib_gemm_parts floats (0: none are needed). */
int64_t uqlib_skinny_parts(const UqlibProduct* p, int bits, int multiprocessors);
int uqlib_skinny(const UqlibProduct* p, int type, int bits, int out, int multiprocessors,
                 void* stream);
int64_t uqlib_gemm_parts(const UqlibProduct* p, int bits, int multiprocessors);
int uqlib_gemm(const UqlibProduct* p, int type, int bits, int out, int multiprocessors,
               void* stream);

/* Rows of bytes: x (n_rows, n_in) of `type` to codes (n_rows, n_columns) in the order of
 * `bits` (place_of_input), sums (n_rows, n_groups) or null, row_scale (n_rows,). A row has
 * a scale of its own where static_scale is 0. */
int uqlib_quantize_rows(const void* x, int type, int8_t* codes, int32_t* sums,
                        float* row_scale, int n_rows, const UqlibColumns* columns, int bits,
                        int top, float static_scale, void* stream);
/* Rows of floats in the columns of a weight: x (n_rows, n_in) of `type` to out
 * (n_rows, n_columns) of `to`. From UQLIB_FLOAT to UQLIB_BFLOAT16 a row becomes three,
 * out (n_rows, 3, n_columns), whose sum is x exactly (but for numbers near the least). */
int uqlib_place_rows(const void* x, int type, void* out, int to, int n_rows,
                     const UqlibColumns* columns, void* stream);
/* y[m] (n_out,) of `out` = parts[m, 0] + parts[m, 1] + parts[m, 2] + bias
 * for parts (n_rows, 3, n_out); bias may be null. */
int uqlib_add_planes(const float* parts, const float* bias, void* y, int out, int n_rows,
                     int n_out, void* stream);
/* y (n_rows, n_out) of `out` = row_scale[m] scale[n] (sums[m, n] + (center - z[n])
 * row_sums[m]) + bias[n], for one group; sums is (n_rows, n_padded), row_sums may be null
 * where all z are the center. */
int uqlib_scale_sums(const int32_t* sums, const int32_t* row_sums, const float* row_scale,
                     const float* scale, const float* zero, float uniform_zero, float center,
                     const float* bias, void* y, int out, int n_rows, int n_out,
                     int n_padded, void* stream);
/* The float matrix (n_true_out, n_in) of `out`, not UQLIB_INT8: (q - z) s, or C[q] s with
 * the 16 floats of a codebook (else null), rounded once; without any padding. */
int uqlib_dequantize(const UqlibProduct* p, const UqlibColumns* columns,
                     const float* codebook, int bits, void* weight, int out, void* stream);
/* Codes of fewer than 8 bits a byte each, (n_out, n_columns) as the columns lie: q - 8 for
 * 4 bits, else q. */
int uqlib_expand_codes(const UqlibProduct* p, int bits, int8_t* codes, void* stream);

/* Rows of quantiles, (n_rows, n_levels) of UQLIB_FLOAT or doubles (wide != 0).
 * A row with NaN is sorted to NaN, and found_nan (1,), if it is not null, becomes 1. */
int uqlib_sort_rows(const void* q, void* out, int wide, int64_t n_rows, int n_levels,
                    int32_t* found_nan, void* stream);
int uqlib_isotonic_rows(const void* q, const double* level_weight, void* out, int wide,
                        int64_t n_rows, int n_levels, void* stream);
/* Prediction sets (n_rows, n_classes) of bytes 0 and 1; see sets.cuh. */
int uqlib_mass_sets(const void* proba, int wide, const double* threshold, const double* u,
                    int k_reg, double penalty, uint8_t* sets, int64_t n_rows, int n_classes,
                    void* stream);

#ifdef __cplusplus
}
#endif
#endif
