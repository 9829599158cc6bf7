// One JSON text, of whatever dialect it says, rendered in every way. Conversations of openai-harmony are among them.
#include "data/records/formats.h"
#include "tests/fuzz/fixtures.h"
#include "tests/fuzz/json_mutator.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace ossature;
  Sample sample;
  try {
    sample = parse_sample(fuzz::text_of(data, size));
  } catch (const DataError& error) {
    fuzz::check_message(error);
    return 0;
  }
  for (const Harmony& harmony : fuzz::renderers()) {
    try {
      if (const auto* conversation = std::get_if<Conversation>(&sample)) {
        const auto rendered = harmony.render(*conversation);
        fuzz::require(!rendered.empty(), "a conversation has no sample");
        for (const RenderedSample& one : rendered) fuzz::check_sample(one);
        (void)harmony.render_prompt(*conversation);
      } else if (const auto* text = std::get_if<std::string>(&sample)) {
        fuzz::check_sample(harmony.render_text(*text));
      } else {
        for (const RenderedSample& one : harmony.render_harmony_text(std::get<HarmonyText>(sample).text)) {
          fuzz::check_sample(one);
        }
      }
    } catch (const DataError& error) {
      fuzz::check_message(error);
    }
  }
  return 0;
}
