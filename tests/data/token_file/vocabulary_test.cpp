#include "data/token_file/vocabulary.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/data/errors.h"
#include "tests/data/temporary_directory.h"

namespace ossature {
namespace {

class Vocabulary : public testing::Test {
 protected:
  std::shared_ptr<const TokenFileReader> file(const std::string& name, std::int64_t vocab_size,
                                              const std::string& sha) {
    TokenFileWriter(folder_ / name, vocab_size, sha).finish();
    return std::make_shared<const TokenFileReader>(folder_ / name);
  }
  const TemporaryDirectory folder_;
  const std::string a_ = std::string(64, 'a'), b_ = std::string(64, 'b');
};

TEST_F(Vocabulary, FitsAModel) {
  const auto tokens = file("a.h5", 100, a_);
  check_vocabulary(*tokens, 100, "model");
  check_vocabulary(*tokens, 101, "model");
  expect_data_error([&] { check_vocabulary(*tokens, 99, "model"); },
                    "a.h5: made with a vocabulary of 100, but model has 99; prepare it");
}

TEST_F(Vocabulary, IsTheSameInAllFiles) {
  const auto one = file("1.h5", 100, ""), two = file("2.h5", 100, a_), three = file("3.h5", 100, a_);
  const auto check = [](std::vector<std::shared_ptr<const TokenFileReader>> files) { check_same_tokenizer(files); };
  check({});
  check({one});
  check({one, two, three, one});
  expect_data_error([&] { check({two, file("x.h5", 101, a_)}); }, "x.h5: made with a vocabulary of 101, but ");
  const std::string message = data_error_of([&] { check({one, two, file("y.h5", 100, b_)}); });
  EXPECT_NE(message.find("y.h5: made with another tokenizer.json (SHA-256 bbbbbbbbbbbb...) than "), std::string::npos)
      << message;
  EXPECT_NE(message.find("2.h5 (aaaaaaaaaaaa...)"), std::string::npos) << message;
}

}  // namespace
}  // namespace ossature
