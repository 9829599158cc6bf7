#include <cstdio>
#include <ostream>

#include "data/utf8.h"
#include "train/reports/preview.h"
#include "train/text/markup.h"
#include "train/text/visible_text.h"

namespace ossature {
namespace {

constexpr const char* kHead = R"(<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<style>
:root { --page: #fff; --ink: #1a1a1a; --faint: #666; --line: #d5d5d5; --learned: 46 160 67; --part: 200 140 0;
  --special: #8a3ffc; --tint: 0.26; }
@media (prefers-color-scheme: dark) { :root { --page: #16181c; --ink: #ececec; --faint: #9a9fa8; --line: #3a3f47;
  --learned: 63 185 80; --part: 230 170 40; --special: #c9a6ff; --tint: 0.34; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.25rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; padding-top: .75rem; border-top: 2px solid var(--line); overflow-wrap: anywhere; }
h3 { font-size: .85rem; font-weight: 600; margin: 1rem 0 .25rem; color: var(--faint); overflow-wrap: anywhere; }
p { margin: .25rem 0; color: var(--faint); font-size: .9rem; }
pre { margin: 0; padding: .5rem .75rem; border: 1px solid var(--line); border-radius: .4rem; white-space: pre-wrap;
  overflow-wrap: anywhere; tab-size: 4; font: .875rem/1.6 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
pre span { color: var(--faint); border-radius: 2px; }
pre span:hover { outline: 1px solid currentColor; }
span.l, span.p { color: var(--ink); background: rgb(var(--learned) / var(--tint)); }
span.p { background: rgb(var(--part) / var(--tint)); }
span.s { color: var(--special); font-weight: 600; }
b { font-weight: 400; border: 1px dotted currentColor; border-radius: 2px; font-size: .85em; }
i::before { content: "\21B5"; font-style: normal; opacity: .55; }
@media print { :root { --page: #fff; --ink: #000; --faint: #666; --line: #bbb; --special: #5a1fb0; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  span.l { background: none; text-decoration: underline; text-decoration-thickness: 1.5pt; }
  span.p { background: none; text-decoration: underline dashed; text-decoration-thickness: 1.5pt; }
  h2, h3 { break-after: avoid; } }
</style>
)";

std::string body_of(std::string_view bytes) {
  std::string html;
  for (const VisiblePiece& piece : visible_pieces(bytes)) {
    if (piece.kind == VisiblePiece::kNewline) {
      html += "<i></i>\n";
    } else {
      html += piece.kind == VisiblePiece::kEscape ? "<b>" + escaped_markup(piece.text) + "</b>"
                                                  : escaped_markup(piece.text);
    }
  }
  return html;
}

/// One past the last of the tokens from `begin` on that must be shown together, because a character is cut between
/// them.
std::size_t end_of_group(const PreviewSample& sample, const Tokenizer& tokenizer, std::size_t begin, std::size_t end) {
  constexpr std::size_t kMostBytes = 4;  // of a character, so tokens that share one are few
  std::string bytes = preview_bytes(tokenizer, sample.tokens[begin]);
  for (std::size_t i = begin + 1;; ++i) {
    if (valid_utf8_prefix(bytes) == bytes.size()) return i;
    if (i == end || i - begin > kMostBytes || sample.loss_weights[i] != sample.loss_weights[begin]) break;
    bytes += preview_bytes(tokenizer, sample.tokens[i]);
  }
  return begin + 1;  // they make no text: each for itself
}

void write_group(std::ostream& out, const PreviewSample& sample, const Tokenizer& tokenizer, std::size_t begin,
                 std::size_t end) {
  const float weight = sample.loss_weights[begin];
  std::string bytes, ids;
  for (std::size_t i = begin; i < end; ++i) {
    bytes += preview_bytes(tokenizer, sample.tokens[i]);
    ids += (i > begin ? ", " : "") + std::to_string(sample.tokens[i]);
  }
  const bool is_special = tokenizer.is_special(sample.tokens[begin]);
  std::string classes = weight >= 1.0f ? "l" : weight > 0.0f ? "p" : "";
  if (is_special) classes += classes.empty() ? "s" : " s";
  char number[32];
  std::snprintf(number, sizeof number, "%.6g", static_cast<double>(weight));
  out << "<span" << (classes.empty() ? "" : " class=\"" + classes + "\"") << " title=\""
      << (end - begin == 1 ? "id " : "ids ") << ids << ", weight " << number << ", position " << begin << "\">"
      << body_of(bytes) << "</span>";
}

}  // namespace

void write_preview_page(std::ostream& out, std::string_view title, const std::vector<PreviewSample>& samples,
                        const Tokenizer& tokenizer) {
  const HarmonyTokens harmony = HarmonyTokens::of(tokenizer);
  const std::string heading = escaped_markup(visible_line(title));
  out << kHead << "<title>" << heading << "</title>\n</head>\n<body>\n<h1>" << heading << "</h1>\n"
      << "<p><span class=\"l\">learned</span> <span class=\"p\">learned with a weight below 1</span> "
         "<span>not learned</span> <span class=\"s\">special token</span> <b>\\x1b</b> does not print. "
         "Point at a token for its id, weight and position.</p>\n";
  for (const PreviewSample& sample : samples) {
    out << "<h2>" << escaped_markup(visible_line(sample.title)) << "</h2>\n<p>"
        << escaped_markup(preview_counts(sample)) << "</p>\n";
    for (const PreviewMessage& message : preview_messages(sample, tokenizer, harmony)) {
      const std::int64_t size = message.segment.end - message.segment.begin;
      out << "<h3>" << escaped_markup(message.heading) << ": " << size << (size == 1 ? " token" : " tokens");
      if (message.learned > 0) out << ", " << message.learned << " learned";
      // A newline right behind <pre> is dropped.
      out << "</h3>\n<pre>\n";
      const auto end = static_cast<std::size_t>(message.segment.end);
      for (auto i = static_cast<std::size_t>(message.segment.begin); i < end;) {
        const std::size_t next = end_of_group(sample, tokenizer, i, end);
        write_group(out, sample, tokenizer, i, next);
        i = next;
      }
      out << "</pre>\n";
    }
  }
  out << "</body>\n</html>\n";
}

}  // namespace ossature
