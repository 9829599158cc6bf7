#define PCRE2_CODE_UNIT_WIDTH 8
#include "data/tokenizer/split_regex.h"

#include <pcre2.h>

#include <stdexcept>

#include "data/data_error.h"

namespace ossature {
namespace {

/// Unicode's White_Space, which \s means in tokenizer.json. PCRE2's own \s also has U+180E, which is no white space any
/// more.
constexpr const char* kWhiteSpace =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";

/// `pattern` with \s and \S written out; but not \S within brackets, which no tokenizer uses.
std::string with_unicode_space(const std::string& pattern) {
  std::string result;
  bool in_brackets = false;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char next = i + 1 < pattern.size() ? pattern[i + 1] : '\0';
    if (pattern[i] == '\\' && next == 's') {
      result += in_brackets ? std::string(kWhiteSpace) : "[" + std::string(kWhiteSpace) + "]";
      ++i;
    } else if (pattern[i] == '\\' && next == 'S' && !in_brackets) {
      result += "[^" + std::string(kWhiteSpace) + "]";
      ++i;
    } else if (pattern[i] == '\\' && next != '\0') {
      result += pattern.substr(i, 2);
      ++i;
    } else {
      if (pattern[i] == '[') in_brackets = true;
      if (pattern[i] == ']') in_brackets = false;
      result += pattern[i];
    }
  }
  return result;
}

std::string message_of(int code) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(code, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

}  // namespace

struct SplitRegex::Code {
  pcre2_code* code = nullptr;
  ~Code() { pcre2_code_free(code); }
};

SplitRegex::SplitRegex(const std::string& pattern) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  auto code = std::make_shared<Code>();
  const std::string text = with_unicode_space(pattern);
  code->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), PCRE2_UTF | PCRE2_UCP, &error,
                             &offset, nullptr);
  if (code->code == nullptr) {
    throw std::invalid_argument(message_of(error) + " before \"" + text.substr(offset) + "\"");
  }
  pcre2_jit_compile(code->code, PCRE2_JIT_COMPLETE);  // without it matching is slower, not different
  code_ = std::move(code);
}

void SplitRegex::split(std::string_view text, const std::function<void(std::string_view)>& piece) const {
  const std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> match(
      pcre2_match_data_create_from_pattern(code_->code, nullptr), pcre2_match_data_free);
  if (!match) throw std::bad_alloc();
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  std::uint32_t checked = 0;  // UTF-8 is checked by the first match, of the whole text
  for (std::size_t position = 0; position < text.size();) {
    int count = pcre2_match(code_->code, subject, text.size(), position, checked, match.get(), nullptr);
    if (count ==
        PCRE2_ERROR_JIT_STACKLIMIT) {  // a piece beyond the compiled code's stack: the interpreter uses the heap
      count = pcre2_match(code_->code, subject, text.size(), position, checked | PCRE2_NO_JIT, match.get(), nullptr);
    }
    checked = PCRE2_NO_UTF_CHECK;
    if (count == PCRE2_ERROR_NOMATCH) {
      piece(text.substr(position));
      return;
    }
    if (count < 0) {
      if (count >= PCRE2_ERROR_UTF8_ERR21 && count <= PCRE2_ERROR_UTF8_ERR1) {
        throw DataError("text is not UTF-8: byte " + std::to_string(pcre2_get_startchar(match.get())) + ": " +
                        message_of(count) + "; convert the file to UTF-8");
      }
      throw DataError("text cannot be split into pieces: " + message_of(count));
    }
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(match.get());
    if (range[0] > position) piece(text.substr(position, range[0] - position));
    if (range[1] == range[0]) throw DataError("the tokenizer's pattern matches nothing; the tokenizer is damaged");
    piece(text.substr(range[0], range[1] - range[0]));
    position = range[1];
  }
}

}  // namespace ossature
