#include "model/files/gguf.h"

#include <gtest/gtest.h>

#include <cstring>

#include "model/files/checkpoint_error.h"
#include "model/files/gguf_writer.h"
#include "tests/malformed/scratch.h"

namespace ossature {
namespace {

std::vector<std::byte> bytes_of(std::size_t size, int first) {
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(first + static_cast<int>(i));
  return bytes;
}

TEST(Gguf, EveryTypeOfValueComesBack) {
  const Scratch scratch;
  const GgufKeyValues values = {
      {"u8", std::uint8_t{200}},
      {"i8", std::int8_t{-3}},
      {"u16", std::uint16_t{60000}},
      {"i16", std::int16_t{-300}},
      {"u32", std::uint32_t{4000000000}},
      {"i32", std::int32_t{-70000}},
      {"f32", 1e-5F},
      {"yes", true},
      {"no", false},
      {"text", std::string("a\0b", 3)},
      {"u64", std::uint64_t{1} << 63},
      {"i64", std::int64_t{-1} << 40},
      {"f64", 0.1},
      {"texts", GgufArray(std::vector<std::string>{"", "Ġt", "x y"})},
      {"numbers", GgufArray(std::vector<std::int32_t>{1, -2, 3})},
      {"truths", GgufArray(std::vector<bool>{true, false, true})},
      {"nothing", GgufArray(std::vector<double>{})},
  };
  GgufWriter(scratch.path() / "a.gguf", values, {}).finish();
  EXPECT_EQ(GgufFile::open(scratch.path() / "a.gguf")->key_values(), values);
}

TEST(Gguf, TensorsAreAlignedAndComeBackWhateverThePieces) {
  const Scratch scratch;
  const std::vector<GgufTensor> tensors = {
      {"three", GgmlType::kBF16, {3}}, {"empty", GgmlType::kF32, {0, 5}}, {"blocks", GgmlType::kMxfp4, {2, 64}}};
  GgufWriter writer(scratch.path() / "a.gguf", {{"general.architecture", std::string("x")}}, tensors);
  const auto first = bytes_of(6, 1), last = bytes_of(4 * 17, 50);
  writer.write(std::span(first).first(1));
  writer.write({});
  writer.write(std::span(first).subspan(1));
  writer.write(last);
  EXPECT_FALSE(std::filesystem::exists(scratch.path() / "a.gguf"));
  writer.finish();
  const auto file = GgufFile::open(scratch.path() / "a.gguf");
  ASSERT_EQ(file->tensors().size(), 3U);
  EXPECT_EQ(file->tensors()[2].begin, 32U);
  EXPECT_EQ(file->find("blocks")->shape, (std::vector<std::int64_t>{2, 64}));
  EXPECT_EQ(file->find("absent"), nullptr);
  const auto found = file->bytes(*file->find("blocks"));
  EXPECT_TRUE(std::equal(found.begin(), found.end(), last.begin(), last.end()));
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(found.data()) % 32, 0U);
  EXPECT_EQ(std::filesystem::file_size(scratch.path() / "a.gguf") % 32, 0U);
}

TEST(GgufWriter, RefusesWhatWasNotDeclared) {
  const Scratch scratch;
  const std::filesystem::path path = scratch.path() / "a.gguf";
  const GgufTensor two{"t", GgmlType::kF32, {2}};
  {
    GgufWriter writer(path, {}, {two});
    EXPECT_THROW(writer.write(bytes_of(9, 0)), std::logic_error);
    EXPECT_THROW(writer.finish(), std::logic_error);
  }
  EXPECT_TRUE(std::filesystem::is_empty(scratch.path()));
  EXPECT_THROW(GgufWriter(path, {}, {two, two}), CheckpointError);
  EXPECT_THROW(GgufWriter(path, {{"k", true}, {"k", true}}, {}), CheckpointError);
  EXPECT_THROW(GgufWriter(path, {}, {{"t", GgmlType::kMxfp4, {48}}}), CheckpointError);
  EXPECT_THROW(GgufWriter(path, {}, {{"t", GgmlType::kF32, {1, 1, 1, 1, 1}}}), CheckpointError);
  EXPECT_THROW(GgufWriter(path, {}, {{std::string(64, 'n'), GgmlType::kF32, {1}}}), CheckpointError);
  EXPECT_THROW(GgufWriter(scratch.path() / "absent/a.gguf", {}, {two}), CheckpointError);
  EXPECT_TRUE(std::filesystem::is_empty(scratch.path()));
}

}  // namespace
}  // namespace ossature
