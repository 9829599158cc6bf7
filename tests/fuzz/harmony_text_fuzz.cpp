// Text that claims to be rendered harmony: refused, or its tokens spell it.
#include "tests/fuzz/fixtures.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace ossature;
  const std::string_view text = fuzz::text_of(data, size);
  for (const Harmony& harmony : fuzz::renderers()) {
    try {
      const auto samples = harmony.render_harmony_text(text);
      fuzz::require(!samples.empty(), "a text has no sample");
      for (const RenderedSample& sample : samples) fuzz::check_sample(sample);
      if (harmony.options().learn.turns != LearnedTurns::kExpand) {
        fuzz::require(samples.size() == 1, "a text has several samples");
      }
    } catch (const DataError& error) {
      fuzz::check_message(error);
    }
  }
  return 0;
}
