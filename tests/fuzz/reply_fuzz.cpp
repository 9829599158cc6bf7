// Whatever a model may generate, taken apart: input bytes are ids, two each, specials more often than chance has them.
#include <cstring>

#include "data/harmony/harmony_reply.h"
#include "data/prepare/statistics.h"
#include "tests/fuzz/fixtures.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace ossature;
  static const HarmonyTokens harmony = HarmonyTokens::of(fuzz::tokenizer());
  const std::vector<std::int32_t> often = {harmony.start,     harmony.end,   harmony.message,     harmony.channel,
                                           harmony.constrain, harmony.call,  harmony.return_,     harmony.assistant[0],
                                           harmony.final[0],  harmony.to[0], harmony.analysis[0], -1};
  std::vector<std::int32_t> tokens;
  std::vector<float> weights;
  for (std::size_t i = 0; i + 1 < size; i += 2) {
    std::uint16_t id = 0;
    std::memcpy(&id, data + i, 2);
    tokens.push_back(id >= 0x8000 ? often[id % often.size()] : id);
    weights.push_back(static_cast<float>(id % 3) * 0.5f);
  }
  for (const GeneratedMessage& message : parse_reply(fuzz::tokenizer(), tokens)) {
    fuzz::require(message.content.size() <= 64 * tokens.size(), "a message is longer than what it is made of");
  }
  std::int64_t position = 0;
  SegmentFinder finder(harmony, tokens);
  for (Segment s; finder.next(s); position = s.end) {
    fuzz::require(s.begin == position && s.begin <= s.content_begin && s.content_begin <= s.content_end &&
                      s.content_end <= s.end && s.begin < s.end,
                  "segments do not lie one after the other");
    (void)header_of(fuzz::tokenizer(), harmony, tokens, s);
  }
  fuzz::require(position == static_cast<std::int64_t>(tokens.size()), "segments are not all of the sample");
  TokenStatistics statistics(harmony);
  statistics.add(tokens, weights);
  fuzz::require(statistics.total().tokens == position, "statistics do not count all tokens");
  return 0;
}
