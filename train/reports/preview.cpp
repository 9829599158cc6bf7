#include "train/reports/preview.h"

#include <algorithm>

#include "train/text/visible_text.h"

namespace ossature {

std::vector<PreviewMessage> preview_messages(const PreviewSample& sample, const Tokenizer& tokenizer,
                                             const HarmonyTokens& harmony) {
  std::vector<PreviewMessage> messages;
  SegmentFinder finder(harmony, sample.tokens);
  for (Segment segment; finder.next(segment);) {
    PreviewMessage message{segment, "text", 0};
    if (segment.kind != SegmentKind::kText) {
      const SegmentHeader header = header_of(tokenizer, harmony, sample.tokens, segment);
      message.heading = visible_line(header.role.empty() ? "no role" : header.role);
      if (!header.name.empty()) message.heading += " " + visible_line(header.name);
      if (!header.channel.empty()) message.heading += ", " + visible_line(header.channel);
      if (!header.recipient.empty()) message.heading += ", to " + visible_line(header.recipient);
      if (!header.content_type.empty()) message.heading += ", " + visible_line(header.content_type);
    }
    message.learned = std::count_if(sample.loss_weights.begin() + segment.begin,
                                    sample.loss_weights.begin() + segment.end, [](float w) { return w > 0.0f; });
    messages.push_back(std::move(message));
  }
  return messages;
}

std::string preview_counts(const PreviewSample& sample) {
  const auto shown = static_cast<std::int64_t>(sample.tokens.size());
  const auto learned =
      std::count_if(sample.loss_weights.begin(), sample.loss_weights.end(), [](float w) { return w > 0.0f; });
  std::string text = std::to_string(sample.length) + (sample.length == 1 ? " token, " : " tokens, ");
  if (shown < sample.length) text += "the first " + std::to_string(shown) + " shown, ";
  return text + (learned > 0 ? std::to_string(learned) : "none") + " learned";
}

std::string preview_bytes(const Tokenizer& tokenizer, std::int32_t id) {
  const std::string_view bytes = tokenizer.bytes_of(id);
  return bytes.empty() ? "\\id{" + std::to_string(id) + "}" : std::string(bytes);
}

}  // namespace ossature
