// The small matrix product of bf16_tiles.h for processors that multiply no bfloat16: a block of both operands is
// widened to float32 in a core's own cache, and multiplied there by vector registers of float32. Internal to model/.
#pragma once

#include <cstdint>

#include <c10/util/BFloat16.h>

namespace ossature::tiles {

/// tiles::multiply on any processor; products are exact and their sums float32.
void widened_multiply(std::int64_t m, std::int64_t n, std::int64_t k, const c10::BFloat16* a, std::int64_t lda,
                      const c10::BFloat16* b, std::int64_t ldb, float* c, std::int64_t ldc, bool add);

}  // namespace ossature::tiles
