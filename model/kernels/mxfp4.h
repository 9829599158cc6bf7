// MXFP4 (OCP Microscaling Formats v1.0): blocks of 32 consecutive values along the last dimension share a power-of-two
// scale (E8M0, bias 127); each value is an E2M1 code. gpt-oss packs two codes a byte, the lower nibble first.
// Shapes: E experts, O output features, I input features, G = I / 32 blocks a row.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

namespace ossature {

inline constexpr std::int64_t kMxfp4BlockSize = 32;   // values that share a scale
inline constexpr std::int64_t kMxfp4BlockBytes = 16;  // packed bytes of a block
/// Largest scale byte that a checkpoint may carry: 253 and 254 can overflow bfloat16, 255 is NaN.
inline constexpr int kMxfp4MaxScale = 252;

/// Expert weights of one projection, [E, O, I] once decoded. CPU tensors, possibly views of a read-only mapping.
struct Mxfp4Tensor {
  at::Tensor blocks;  // uint8 [E, O, G, 16]
  at::Tensor scales;  // uint8 [E, O, G]

  [[nodiscard]] std::int64_t num_experts() const { return blocks.size(0); }
  [[nodiscard]] std::int64_t out_features() const { return blocks.size(1); }
  [[nodiscard]] std::int64_t in_features() const { return blocks.size(2) * kMxfp4BlockSize; }
};

/// Ways to decode; all give the same bits.
enum class Mxfp4Kernel { kPlain, kAvx2, kAvx512 };
/// Those that this processor has, the fastest first.
[[nodiscard]] std::vector<Mxfp4Kernel> mxfp4_kernels();

/// Decodes `rows` rows of one expert, starting at row `first`, to bfloat16 bits, row-major [rows, I]. Exact. Single
/// threaded; by the fastest kernel unless another is given, which must be one of mxfp4_kernels().
/// `blocks` uint8 [O, G, 16] and `scales` uint8 [O, G] of that expert.
void mxfp4_decode_rows(const std::uint8_t* blocks, const std::uint8_t* scales, std::int64_t first, std::int64_t rows,
                       std::int64_t num_blocks, std::uint16_t* out, std::optional<Mxfp4Kernel> kernel = std::nullopt);

/// Decodes the same rows (an even number), columns 32 first_block .. 32 (first_block + block_count), as pairs of rows:
/// out [rows / 2][32 block_count][2], the two values of a column beside each other. Exact, single threaded.
void mxfp4_decode_row_pairs(const std::uint8_t* blocks, const std::uint8_t* scales, std::int64_t first,
                            std::int64_t rows, std::int64_t num_blocks, std::int64_t first_block,
                            std::int64_t block_count, std::uint16_t* out);

/// Decodes expert `e` to [O, I] in `dtype` (bfloat16 or float32), using all threads. Both are exact. Works on any
/// device that the blocks are on. `out`, when defined, must be contiguous [O, I] bfloat16 CPU and is reused for
/// bfloat16.
[[nodiscard]] at::Tensor mxfp4_decode_expert(const Mxfp4Tensor& weight, std::int64_t e, at::ScalarType dtype,
                                             const at::Tensor& out = {});

/// Decodes all experts to [E, O, I] in `dtype`.
[[nodiscard]] at::Tensor mxfp4_decode(const Mxfp4Tensor& weight, at::ScalarType dtype);

/// Encodes float32 or bfloat16 [..., O, I] (I a multiple of 32) to the nearest MXFP4 values: per block the better, by
/// squared error, of the two scales that put the largest magnitude in (3, 6] or let it saturate in (6, 8) (round to
/// nearest even). Values that are on the grid already come back exactly. Returns blocks [..., O, G, 16] and scales
/// [..., O, G]. Throws CheckpointError on a value that is not finite.
[[nodiscard]] Mxfp4Tensor mxfp4_encode(const at::Tensor& weight);

/// decode(encode(weight)) in float32 without packing: what the forward pass sees when a weight is trained for the grid.
[[nodiscard]] at::Tensor mxfp4_round(const at::Tensor& weight);

}  // namespace ossature
