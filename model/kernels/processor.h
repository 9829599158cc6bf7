// What the processor can do, for kernels that exist in several copies.
#pragma once

namespace ossature {

/// Each level has what the ones before it have.
enum class Instructions {
  kPlain,       // what the compiler takes for granted
  kAvx2,        // with FMA
  kAvx512,      // F, BW, VL and DQ
  kAvx512Bf16,  // products of bfloat16 pairs
};

/// The best that this processor has, unless limited.
[[nodiscard]] Instructions instructions();

/// Until its end kernels use at most `limit`. For tests and benchmarks: whether one is at work must not change while
/// kernels run. The environment variable OSSATURE_INSTRUCTIONS (plain, avx2, avx512) is such a limit for a whole run.
class InstructionsLimit {
 public:
  explicit InstructionsLimit(Instructions limit);
  ~InstructionsLimit();
  InstructionsLimit(const InstructionsLimit&) = delete;
  InstructionsLimit& operator=(const InstructionsLimit&) = delete;

 private:
  Instructions before_;
};

/// "AVX2" and so on.
[[nodiscard]] const char* name_of(Instructions level);

}  // namespace ossature
