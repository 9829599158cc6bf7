// Decoding kernels. A code times its scale is exact in bfloat16 and in float32 for every scale byte up to
// kMxfp4MaxScale.
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "model/kernels/mxfp4.h"
#include "model/kernels/processor.h"

namespace ossature {
namespace {

/// E2M1 by code; bit 3 is the sign (OCP Microscaling Formats v1.0, section 5.3.3).
constexpr float kValues[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                               -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

/// Below this scale byte a value can be a subnormal bfloat16, whose exponent cannot just be added to.
constexpr int kFirstNormalScale = 2;

/// Rows whose codes are fetched before they are needed: a panel takes a cache line of each, too far apart for the
/// processor to see a stream.
constexpr std::int64_t kRowsAhead = 32;

float decode_value(std::uint8_t code, int scale) {
  return std::ldexp(kValues[code], scale - 127);
}

constexpr std::uint16_t to_bfloat16_bits(float exact) {
  return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(exact) >> 16);
}

#if defined(__x86_64__)
/// bfloat16 by code, twice, as a permutation of 32 values takes it.
alignas(64) constexpr auto kCodeTable = [] {
  std::array<std::uint16_t, 32> table{};
  for (std::size_t i = 0; i < table.size(); ++i) table[i] = to_bfloat16_bits(kValues[i % 16]);
  return table;
}();

/// Even and odd columns' values merged: 0 .. 7 of the first operand between those of the second, which begin at 16.
alignas(64) constexpr auto kFirstColumns = [] {
  std::array<std::uint32_t, 16> places{};
  for (std::uint32_t i = 0; i < places.size(); ++i) places[i] = i / 2 + 16 * (i % 2);
  return places;
}();
#endif

void decode_block_plain(const std::uint8_t* codes, int scale, std::uint16_t* out) {
  std::uint16_t table[16];
  for (std::uint8_t code = 0; code < 16; ++code) table[code] = to_bfloat16_bits(decode_value(code, scale));
  for (std::int64_t i = 0; i < kMxfp4BlockBytes; ++i) {
    out[2 * i] = table[codes[i] & 15];
    out[2 * i + 1] = table[codes[i] >> 4];
  }
}

void decode_blocks_plain(const std::uint8_t* codes, const std::uint8_t* scales, std::int64_t num_blocks,
                         std::uint16_t* out) {
  for (std::int64_t block = 0; block < num_blocks; ++block) {
    decode_block_plain(codes + block * kMxfp4BlockBytes, scales[block], out + block * kMxfp4BlockSize);
  }
}

/// A block of two rows, the values of a column beside each other.
void decode_block_pair_plain(const std::uint8_t* upper, const std::uint8_t* lower, int upper_scale, int lower_scale,
                             std::uint16_t* out) {
  std::uint16_t rows[2][kMxfp4BlockSize];
  decode_block_plain(upper, upper_scale, rows[0]);
  decode_block_plain(lower, lower_scale, rows[1]);
  for (std::int64_t i = 0; i < kMxfp4BlockSize; ++i) {
    out[2 * i] = rows[0][i];
    out[2 * i + 1] = rows[1][i];
  }
}

void decode_pairs_plain(const std::uint8_t* upper, const std::uint8_t* lower, const std::uint8_t* upper_scales,
                        const std::uint8_t* lower_scales, std::int64_t num_blocks, std::uint16_t* out) {
  for (std::int64_t block = 0; block < num_blocks; ++block) {
    decode_block_pair_plain(upper + block * kMxfp4BlockBytes, lower + block * kMxfp4BlockBytes, upper_scales[block],
                            lower_scales[block], out + block * 2 * kMxfp4BlockSize);
  }
}

#if defined(__x86_64__)
/// One block a step: 16 bytes become 16 lanes of 32 bits that hold both nibbles, a table look-up of 16-bit entries
/// turns them into bfloat16 values at scale 1, and the scale is an addition to their exponents.
__attribute__((target("avx512f,avx512bw,avx512vl"))) void decode_blocks_avx512(const std::uint8_t* codes,
                                                                               const std::uint8_t* scales,
                                                                               std::int64_t num_blocks,
                                                                               std::uint16_t* out) {
  const __m512i table = _mm512_load_si512(kCodeTable.data());
  const __m512i magnitude = _mm512_set1_epi16(0x7fff);
  const __m512i nibble = _mm512_set1_epi32(0x000f000f);
  const __mmask16 all = 0xffff;  // the unmasked forms make g++ 12 warn of an undefined operand
  for (std::int64_t block = 0; block < num_blocks; ++block) {
    const int scale = scales[block];
    if (scale < kFirstNormalScale) {
      decode_block_plain(codes + block * kMxfp4BlockBytes, scale, out + block * kMxfp4BlockSize);
      continue;
    }
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + block * kMxfp4BlockBytes));
    __m512i pairs = _mm512_maskz_cvtepu8_epi32(all, bytes);
    pairs = _mm512_and_si512(_mm512_or_si512(pairs, _mm512_maskz_slli_epi32(all, pairs, 12)), nibble);
    const __m512i values = _mm512_permutexvar_epi16(pairs, table);
    const __mmask32 not_zero = _mm512_test_epi16_mask(values, magnitude);
    const __m512i shift = _mm512_set1_epi16(static_cast<short>((scale - 127) * 128));  // the exponent begins at bit 7
    _mm512_storeu_si512(out + block * kMxfp4BlockSize, _mm512_mask_add_epi16(values, not_zero, values, shift));
  }
}

/// The 32 codes of a block in a register of bytes, looked up twice, for the lower and the upper byte of their values at
/// scale 1; the scale is an addition to their exponents.
class Avx2Block {
 public:
  __attribute__((target("avx2"))) Avx2Block() {
    alignas(32) std::uint8_t lower_bytes[32], upper_bytes[32];
    for (std::uint8_t i = 0; i < 32; ++i) {
      const std::uint16_t bits = to_bfloat16_bits(kValues[i % 16]);
      lower_bytes[i] = static_cast<std::uint8_t>(bits & 0xff);
      upper_bytes[i] = static_cast<std::uint8_t>(bits >> 8);
    }
    lower_table_ = _mm256_load_si256(reinterpret_cast<const __m256i*>(lower_bytes));
    upper_table_ = _mm256_load_si256(reinterpret_cast<const __m256i*>(upper_bytes));
  }

  /// values[0]: those of columns 0 .. 15, values[1]: the others. `scale` at least kFirstNormalScale.
  __attribute__((target("avx2"), always_inline)) inline void decode(const std::uint8_t* codes, int scale,
                                                                    __m256i (&values)[2]) const {
    const __m128i nibble = _mm_set1_epi8(15);
    const __m256i magnitude = _mm256_set1_epi16(0x7fff), zero = _mm256_setzero_si256();
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
    const __m128i even = _mm_and_si128(bytes, nibble), odd = _mm_and_si128(_mm_srli_epi16(bytes, 4), nibble);
    const __m256i all = _mm256_set_m128i(_mm_unpackhi_epi8(even, odd), _mm_unpacklo_epi8(even, odd));
    const __m256i lower = _mm256_shuffle_epi8(lower_table_, all), upper = _mm256_shuffle_epi8(upper_table_, all);
    // Both work on halves of 128 bits: values 0 .. 7 and 16 .. 23, and the others.
    const __m256i some = _mm256_unpacklo_epi8(lower, upper), others = _mm256_unpackhi_epi8(lower, upper);
    values[0] = _mm256_permute2x128_si256(some, others, 0x20);
    values[1] = _mm256_permute2x128_si256(some, others, 0x31);
    const __m256i shift = _mm256_set1_epi16(static_cast<short>((scale - 127) * 128));
    for (__m256i& half : values) {
      const __m256i is_zero = _mm256_cmpeq_epi16(_mm256_and_si256(half, magnitude), zero);
      half = _mm256_add_epi16(half, _mm256_andnot_si256(is_zero, shift));
    }
  }

 private:
  __m256i lower_table_, upper_table_;
};

__attribute__((target("avx2"))) void decode_blocks_avx2(const std::uint8_t* codes, const std::uint8_t* scales,
                                                        std::int64_t num_blocks, std::uint16_t* out) {
  const Avx2Block decoder;
  for (std::int64_t block = 0; block < num_blocks; ++block) {
    const int scale = scales[block];
    auto* to = reinterpret_cast<__m256i*>(out + block * kMxfp4BlockSize);
    if (scale < kFirstNormalScale) {
      decode_block_plain(codes + block * kMxfp4BlockBytes, scale, out + block * kMxfp4BlockSize);
      continue;
    }
    __m256i values[2];
    decoder.decode(codes + block * kMxfp4BlockBytes, scale, values);
    _mm256_storeu_si256(to, values[0]);
    _mm256_storeu_si256(to + 1, values[1]);
  }
}

__attribute__((target("avx2"))) void decode_pairs_avx2(const std::uint8_t* upper, const std::uint8_t* lower,
                                                       const std::uint8_t* upper_scales,
                                                       const std::uint8_t* lower_scales, std::int64_t num_blocks,
                                                       std::uint16_t* out) {
  const Avx2Block decoder;
  for (std::int64_t block = 0; block < num_blocks; ++block) {
    const int upper_scale = upper_scales[block], lower_scale = lower_scales[block];
    const std::uint8_t* upper_codes = upper + block * kMxfp4BlockBytes;
    const std::uint8_t* lower_codes = lower + block * kMxfp4BlockBytes;
    std::uint16_t* to = out + block * 2 * kMxfp4BlockSize;
    if (upper_scale < kFirstNormalScale || lower_scale < kFirstNormalScale) {
      decode_block_pair_plain(upper_codes, lower_codes, upper_scale, lower_scale, to);
      continue;
    }
    __m256i above[2], below[2];
    decoder.decode(upper_codes, upper_scale, above);
    decoder.decode(lower_codes, lower_scale, below);
    auto* pairs = reinterpret_cast<__m256i*>(to);
    for (int half = 0; half < 2; ++half) {
      // Halves of 128 bits again: columns 0 .. 3 and 8 .. 11, and the others.
      const __m256i some = _mm256_unpacklo_epi16(above[half], below[half]);
      const __m256i others = _mm256_unpackhi_epi16(above[half], below[half]);
      _mm256_storeu_si256(pairs + 2 * half, _mm256_permute2x128_si256(some, others, 0x20));
      _mm256_storeu_si256(pairs + 2 * half + 1, _mm256_permute2x128_si256(some, others, 0x31));
    }
  }
}

/// A block of two rows a step: lanes of 32 bits take a nibble of each row, first those of the even columns, then those
/// of the odd ones; both are looked up and scaled at once, and put in the order of columns.
__attribute__((target("avx512f,avx512bw,avx512vl"))) void decode_pairs_avx512(
    const std::uint8_t* upper, const std::uint8_t* lower, const std::uint8_t* upper_scales,
    const std::uint8_t* lower_scales, std::int64_t num_blocks, std::uint16_t* out) {
  const __m512i table = _mm512_load_si512(kCodeTable.data());
  const __m512i first_half = _mm512_load_si512(kFirstColumns.data());
  const __m512i last_half = _mm512_add_epi32(first_half, _mm512_set1_epi32(8));
  const __m512i magnitude = _mm512_set1_epi16(0x7fff);
  const __m512i nibble = _mm512_set1_epi32(0x000f000f);
  const __mmask16 all = 0xffff;
  for (std::int64_t block = 0; block < num_blocks; ++block) {
    const int upper_scale = upper_scales[block], lower_scale = lower_scales[block];
    const std::uint8_t* upper_codes = upper + block * kMxfp4BlockBytes;
    const std::uint8_t* lower_codes = lower + block * kMxfp4BlockBytes;
    std::uint16_t* to = out + block * 2 * kMxfp4BlockSize;
    if (upper_scale < kFirstNormalScale || lower_scale < kFirstNormalScale) {
      decode_block_pair_plain(upper_codes, lower_codes, upper_scale, lower_scale, to);
      continue;
    }
    const __m512i above =
        _mm512_maskz_cvtepu8_epi32(all, _mm_loadu_si128(reinterpret_cast<const __m128i*>(upper_codes)));
    const __m512i below =
        _mm512_maskz_cvtepu8_epi32(all, _mm_loadu_si128(reinterpret_cast<const __m128i*>(lower_codes)));
    const __m512i both = _mm512_or_si512(above, _mm512_maskz_slli_epi32(all, below, 16));
    const __m512i even = _mm512_permutexvar_epi16(_mm512_and_si512(both, nibble), table);
    const __m512i odd =
        _mm512_permutexvar_epi16(_mm512_and_si512(_mm512_maskz_srli_epi32(all, both, 4), nibble), table);
    const auto exponents = static_cast<std::uint32_t>((upper_scale - 127) * 128 & 0xffff) |
                           static_cast<std::uint32_t>((lower_scale - 127) * 128) << 16;
    const __m512i shift = _mm512_set1_epi32(static_cast<int>(exponents));
    const __m512i even_values = _mm512_mask_add_epi16(even, _mm512_test_epi16_mask(even, magnitude), even, shift);
    const __m512i odd_values = _mm512_mask_add_epi16(odd, _mm512_test_epi16_mask(odd, magnitude), odd, shift);
    _mm512_storeu_si512(to, _mm512_permutex2var_epi32(even_values, first_half, odd_values));
    _mm512_storeu_si512(to + kMxfp4BlockSize, _mm512_permutex2var_epi32(even_values, last_half, odd_values));
  }
}
#endif

using DecodeBlocks = void (*)(const std::uint8_t*, const std::uint8_t*, std::int64_t, std::uint16_t*);

Mxfp4Kernel fastest_kernel() {
  if (instructions() >= Instructions::kAvx512) return Mxfp4Kernel::kAvx512;
  return instructions() >= Instructions::kAvx2 ? Mxfp4Kernel::kAvx2 : Mxfp4Kernel::kPlain;
}

DecodeBlocks kernel_of(Mxfp4Kernel kernel) {
#if defined(__x86_64__)
  if (kernel == Mxfp4Kernel::kAvx512) return decode_blocks_avx512;
  if (kernel == Mxfp4Kernel::kAvx2) return decode_blocks_avx2;
#endif
  return decode_blocks_plain;
}

void decode_pairs(const std::uint8_t* upper, const std::uint8_t* lower, const std::uint8_t* upper_scales,
                  const std::uint8_t* lower_scales, std::int64_t num_blocks, std::uint16_t* out) {
#if defined(__x86_64__)
  if (instructions() >= Instructions::kAvx512) {
    return decode_pairs_avx512(upper, lower, upper_scales, lower_scales, num_blocks, out);
  }
  if (instructions() >= Instructions::kAvx2) {
    return decode_pairs_avx2(upper, lower, upper_scales, lower_scales, num_blocks, out);
  }
#endif
  decode_pairs_plain(upper, lower, upper_scales, lower_scales, num_blocks, out);
}

/// [rows, G, 16] and [rows, G] -> [rows, G * 32], on any device.
at::Tensor decode_with_ops(const at::Tensor& blocks, const at::Tensor& scales, at::ScalarType dtype) {
  const at::Tensor table =
      at::tensor(at::ArrayRef<float>(kValues, 16), at::TensorOptions().dtype(at::kFloat).device(blocks.device()));
  const at::Tensor codes = at::stack({blocks.bitwise_and(15), at::bitwise_right_shift(blocks, 4)}, -1).flatten(-2);
  const at::Tensor exponents = scales.to(at::kInt).sub(127).unsqueeze(-1);
  return at::ldexp(table.index({codes.to(at::kLong)}), exponents).flatten(-2).to(dtype);
}

}  // namespace

std::vector<Mxfp4Kernel> mxfp4_kernels() {
  std::vector<Mxfp4Kernel> found;
#if defined(__x86_64__)
  if (instructions() >= Instructions::kAvx512) found.push_back(Mxfp4Kernel::kAvx512);
  if (instructions() >= Instructions::kAvx2) found.push_back(Mxfp4Kernel::kAvx2);
#endif
  found.push_back(Mxfp4Kernel::kPlain);
  return found;
}

void mxfp4_decode_rows(const std::uint8_t* blocks, const std::uint8_t* scales, std::int64_t first, std::int64_t rows,
                       std::int64_t num_blocks, std::uint16_t* out, std::optional<Mxfp4Kernel> kernel) {
  kernel_of(kernel.value_or(fastest_kernel()))(blocks + first * num_blocks * kMxfp4BlockBytes,
                                               scales + first * num_blocks, rows * num_blocks, out);
}

void mxfp4_decode_row_pairs(const std::uint8_t* blocks, const std::uint8_t* scales, std::int64_t first,
                            std::int64_t rows, std::int64_t num_blocks, std::int64_t first_block,
                            std::int64_t block_count, std::uint16_t* out) {
  // Weights lie in a file at any multiple of 8, so a piece may reach into a second line.
  const auto last_byte = block_count * kMxfp4BlockBytes - 1;
  for (auto row = first; row < first + rows; row += 2) {
    const auto upper = row * num_blocks + first_block, lower = upper + num_blocks;
    if (row + kRowsAhead + 1 < first + rows) {
      for (const auto block : {upper, lower}) {
        const std::uint8_t* ahead = blocks + (block + kRowsAhead * num_blocks) * kMxfp4BlockBytes;
        __builtin_prefetch(ahead);
        __builtin_prefetch(ahead + last_byte);
      }
    }
    decode_pairs(blocks + upper * kMxfp4BlockBytes, blocks + lower * kMxfp4BlockBytes, scales + upper, scales + lower,
                 block_count, out);
    out += block_count * 2 * kMxfp4BlockSize;
  }
}

at::Tensor mxfp4_decode_expert(const Mxfp4Tensor& weight, std::int64_t e, at::ScalarType dtype, const at::Tensor& out) {
  const at::Tensor blocks = weight.blocks[e], scales = weight.scales[e];
  if (!blocks.device().is_cpu()) return decode_with_ops(blocks, scales, dtype);
  const auto rows = weight.out_features(), width = weight.in_features(), groups = width / kMxfp4BlockSize;
  const auto* codes = blocks.const_data_ptr<std::uint8_t>();
  const auto* exponents = scales.const_data_ptr<std::uint8_t>();
  const bool reuses = out.defined() && dtype == at::kBFloat16;
  const at::Tensor result = reuses ? out : at::empty({rows, width}, dtype);
  at::parallel_for(0, rows, 64, [&](std::int64_t begin, std::int64_t end) {
    if (dtype == at::kBFloat16) {
      auto* values = reinterpret_cast<std::uint16_t*>(result.data_ptr<at::BFloat16>());
      mxfp4_decode_rows(codes, exponents, begin, end - begin, groups, values + begin * width);
      return;
    }
    std::vector<std::uint16_t> row(static_cast<std::size_t>(width));
    auto* values = result.data_ptr<float>();
    for (auto n = begin; n < end; ++n) {
      mxfp4_decode_rows(codes, exponents, n, 1, groups, row.data());
      for (std::int64_t i = 0; i < width; ++i) {
        values[n * width + i] =
            std::bit_cast<float>(static_cast<std::uint32_t>(row[static_cast<std::size_t>(i)]) << 16);
      }
    }
  });
  return result;
}

at::Tensor mxfp4_decode(const Mxfp4Tensor& weight, at::ScalarType dtype) {
  std::vector<at::Tensor> experts;
  for (std::int64_t e = 0; e < weight.num_experts(); ++e) experts.push_back(mxfp4_decode_expert(weight, e, dtype));
  return at::stack(experts);
}

}  // namespace ossature
