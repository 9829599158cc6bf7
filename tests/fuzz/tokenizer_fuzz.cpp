// Text to tokens and back: refused where it is not UTF-8, else the same bytes.
#include "tests/fuzz/fixtures.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace ossature;
  const std::string_view text = fuzz::text_of(data, size);
  const bool is_utf8 = valid_utf8_prefix(text) == text.size();
  try {
    const auto ids = fuzz::tokenizer().encode(text);
    fuzz::require(is_utf8, "text that is not UTF-8 was encoded");
    fuzz::require(fuzz::tokenizer().decode(ids) == text, "decoding does not give the text back");
    for (const std::int32_t id : ids) fuzz::require(!fuzz::tokenizer().is_special(id), "text became a special token");
  } catch (const DataError& error) {
    fuzz::check_message(error);
    fuzz::require(!is_utf8, "UTF-8 was refused");
  }
  return 0;
}
