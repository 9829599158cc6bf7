// Any text as a sample, shown: nothing of it may act on a terminal or leave its place in the page.
#include <sstream>

#include "tests/fuzz/fixtures.h"
#include "train/reports/preview.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace ossature;
  // The first half chooses ids and weights, so bytes may be cut anywhere; the second is text.
  PreviewSample sample;
  sample.title = std::string(fuzz::text_of(data, std::min<std::size_t>(size, 12)));
  for (std::size_t i = 0; i + 1 < size / 2; i += 2) {
    sample.tokens.push_back((data[i] | (data[i + 1] & 7) << 8) - 8);
    sample.loss_weights.push_back(static_cast<float>(data[i + 1] >> 6) * 0.5f);
  }
  const std::string_view text = fuzz::text_of(data + size / 2, size - size / 2);
  if (valid_utf8_prefix(text) == text.size()) fuzz::tokenizer().encode(text, sample.tokens);
  sample.loss_weights.resize(sample.tokens.size(), 1.0f);
  sample.length = static_cast<std::int64_t>(sample.tokens.size());
  std::ostringstream plain, page;
  write_preview_text(plain, {sample}, fuzz::tokenizer(), false);
  write_preview_page(page, sample.title, {sample}, fuzz::tokenizer());
  for (const std::string& shown : {plain.str(), page.str()}) {
    fuzz::require(valid_utf8_prefix(shown) == shown.size(), "a preview is not UTF-8");
    for (std::size_t i = 0; i < shown.size(); ++i) {
      const auto c = static_cast<unsigned char>(shown[i]);
      fuzz::require((c >= 0x20 && c != 0x7f) || c == '\n' || c == '\t', "a preview has a control character");
      fuzz::require(c != 0xc2 || static_cast<unsigned char>(shown[i + 1]) >= 0xa0, "a preview has a control character");
    }
  }
  // Only what the page itself writes is markup.
  const std::string html = page.str();
  for (std::size_t at = html.find("<body>"); (at = html.find('<', at)) != std::string::npos; ++at) {
    const std::string_view rest = std::string_view(html).substr(at + 1);
    bool is_ours = false;
    for (const char* tag : {"span>", "span ", "/span>", "pre>", "/pre>", "p>", "/p>", "h1>",   "/h1>",   "h2>",
                            "/h2>",  "h3>",   "/h3>",   "b>",   "/b>",   "i>", "/i>", "body>", "/body>", "/html>"}) {
      is_ours |= rest.starts_with(tag);
    }
    fuzz::require(is_ours, "the data opens a tag");
  }
  return 0;
}
