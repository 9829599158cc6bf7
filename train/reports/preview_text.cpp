#include <algorithm>
#include <cstdio>
#include <cstring>
#include <ostream>

#include "train/reports/preview.h"
#include "train/text/visible_text.h"

namespace ossature {
namespace {

constexpr const char* kLegend =
    "loss weight | text   (no weight: not learned; >: goes on without a line break; <\\|: no special token but text; "
    "\\x1b, \\u{202e}: does not print)\n";

constexpr const char* kReset = "\x1b[0m";
constexpr const char* kBold = "\x1b[1m";
constexpr const char* kReverse = "\x1b[7m";

/// Green: learned; yellow: in part; faint: not. Special tokens are magenta, those learned bold.
std::string style_of(float weight, bool is_special) {
  if (is_special) return weight > 0.0f ? "\x1b[1;35m" : "\x1b[2;35m";
  return weight >= 1.0f ? "\x1b[32m" : weight > 0.0f ? "\x1b[33m" : "\x1b[2m";
}

/// Lines of one message, each of tokens of one weight.
class Lines {
 public:
  Lines(std::ostream& out, bool color) : out_(out), color_(color) {}

  void add(const std::string& bytes, float weight, bool is_special) {
    const std::string style = color_ ? style_of(weight, is_special) : "";
    for (const VisiblePiece& piece : visible_pieces(bytes)) {
      begin(weight);
      if (piece.kind == VisiblePiece::kNewline) {
        out_ << "\n";
        is_begun_ = false;
        mark_ = '|';
        is_after_newline_ = true;
      } else if (piece.kind == VisiblePiece::kEscape) {
        write(piece.text, style + (color_ ? kReverse : ""));
      } else {
        write(is_special ? piece.text : without_marks(piece.text), style);
      }
    }
  }

  /// Ends the message; a line break at its end shows as an empty line.
  void end() {
    if (is_begun_) {
      out_ << "\n";
    } else if (is_after_newline_) {
      out_ << std::string(kGutter, ' ') << " |\n";
    }
  }

 private:
  static constexpr std::size_t kGutter = 6;

  /// Makes sure that the line is one of `weight`.
  void begin(float weight) {
    if (is_begun_ && weight == weight_) return;
    if (is_begun_) {
      out_ << "\n";
      mark_ = '>';
    }
    char number[32] = "";
    if (weight > 0.0f) std::snprintf(number, sizeof number, "%.3g", static_cast<double>(weight));
    const std::size_t size = std::strlen(number);
    write(std::string(kGutter - std::min(kGutter, size), ' ') + number + " " + mark_ + " ",
          color_ ? style_of(weight, false) : "");
    weight_ = weight;
    is_begun_ = true;
    is_after_newline_ = false;
  }

  void write(const std::string& text, const std::string& style) {
    if (style.empty()) {
      out_ << text;
    } else {
      out_ << style << text << kReset;
    }
  }

  /// What looks like a special token but is text.
  static std::string without_marks(std::string text) {
    for (std::size_t i = 0; (i = text.find("<|", i)) != std::string::npos; ++i) text.insert(i + 1, "\\");
    return text;
  }

  std::ostream& out_;
  bool color_;
  bool is_begun_ = false, is_after_newline_ = false;
  float weight_ = 0.0f;
  char mark_ = '|';
};

void write_sample(std::ostream& out, const PreviewSample& sample, const Tokenizer& tokenizer,
                  const HarmonyTokens& harmony, bool color) {
  const auto heading = [&](const std::string& text) { out << (color ? kBold + text + kReset : text) << "\n"; };
  heading(visible_line(sample.title) + ": " + preview_counts(sample));
  for (const PreviewMessage& message : preview_messages(sample, tokenizer, harmony)) {
    const std::int64_t size = message.segment.end - message.segment.begin;
    heading("-- " + message.heading + ": " + std::to_string(size) + (size == 1 ? " token" : " tokens") +
            (message.learned > 0 ? ", " + std::to_string(message.learned) + " learned" : ""));
    Lines lines(out, color);
    // Tokens of one kind are shown together, as a character may be cut between two of them.
    std::string bytes;
    for (auto i = static_cast<std::size_t>(message.segment.begin); i < static_cast<std::size_t>(message.segment.end);
         ++i) {
      const bool is_special = tokenizer.is_special(sample.tokens[i]);
      const float weight = sample.loss_weights[i];
      bytes += preview_bytes(tokenizer, sample.tokens[i]);
      const bool is_last = i + 1 == static_cast<std::size_t>(message.segment.end);
      if (is_last || sample.loss_weights[i + 1] != weight || tokenizer.is_special(sample.tokens[i + 1]) != is_special) {
        lines.add(bytes, weight, is_special);
        bytes.clear();
      }
    }
    lines.end();
  }
}

}  // namespace

void write_preview_text(std::ostream& out, const std::vector<PreviewSample>& samples, const Tokenizer& tokenizer,
                        bool color) {
  const HarmonyTokens harmony = HarmonyTokens::of(tokenizer);
  out << kLegend;
  for (const PreviewSample& sample : samples) {
    out << "\n";
    write_sample(out, sample, tokenizer, harmony, color);
  }
}

}  // namespace ossature
