#include "model/files/safetensors.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <string>
#include <system_error>
#include <vector>

#include "tests/malformed/scratch.h"

namespace ossature {
namespace {

TensorInfo tensor(const std::string& name, DType dtype, std::vector<std::int64_t> shape) {
  return {name, dtype, std::move(shape), 0, 0};
}

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

std::string text_of(const SafetensorsFile& file, const std::string& name) {
  const auto bytes = file.bytes(*file.find(name));
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TEST(Safetensors, WrittenInPiecesReadsBackEqual) {
  const Scratch scratch;
  const std::filesystem::path path = scratch.path() / "model.safetensors";
  SafetensorsWriter writer(
      path,
      {tensor("wide", DType::kF64, {1}), tensor("a \"name\" \u00e9", DType::kBF16, {2, 3}),
       tensor("none", DType::kF32, {0, 7}), tensor("bytes", DType::kU8, {5}), tensor("scalar", DType::kBool, {})},
      {{"format", "pt"}, {"note", "line\nbreak"}});
  for (const std::string_view piece : {"8 bytes.123", "", "456789abc", "EFGHI"}) writer.write(bytes_of(piece));
  EXPECT_THROW(writer.finish(), std::logic_error) << "a byte is missing";
  EXPECT_THROW(writer.write(bytes_of("xy")), std::logic_error) << "a byte too many";
  writer.write(bytes_of("x"));
  EXPECT_FALSE(std::filesystem::exists(path)) << "before finish() the file has another name";
  writer.finish();

  const auto file = SafetensorsFile::open(path);
  EXPECT_EQ(file->path(), path);
  EXPECT_EQ(file->metadata(), (std::map<std::string, std::string>{{"format", "pt"}, {"note", "line\nbreak"}}));
  ASSERT_EQ(file->tensors().size(), 5U);
  EXPECT_EQ(file->tensors()[1].name, "a \"name\" \u00e9");
  EXPECT_EQ(file->tensors()[1].shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(file->find("scalar")->dtype, DType::kBool);
  EXPECT_EQ(file->find("absent"), nullptr);
  EXPECT_EQ(text_of(*file, "wide"), "8 bytes.");
  EXPECT_EQ(text_of(*file, "a \"name\" \u00e9"), "123456789abc");
  EXPECT_EQ(text_of(*file, "none"), "");
  EXPECT_EQ(text_of(*file, "bytes"), "EFGHI");
  EXPECT_EQ(text_of(*file, "scalar"), "x");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(scratch.path()), {}), 1) << "nothing else is left";
}

/// The bytes of github.com/huggingface/safetensors for one tensor "a", float32 [1], and no metadata.
TEST(Safetensors, HeaderIsPaddedTo8Bytes) {
  const Scratch scratch;
  const std::filesystem::path path = scratch.path() / "one.safetensors";
  SafetensorsWriter writer(path, {tensor("a", DType::kF32, {1})});
  writer.write(bytes_of("1234"));
  writer.finish();
  const std::string json = R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  EXPECT_EQ(read_bytes(path),
            std::string("\x38\0\0\0\0\0\0\0", 8) + json + std::string(56 - json.size(), ' ') + "1234");
}

TEST(Safetensors, NoTensorIsAFileToo) {
  const Scratch scratch;
  SafetensorsWriter(scratch.path() / "empty", {}).finish();
  EXPECT_TRUE(SafetensorsFile::open(scratch.path() / "empty")->tensors().empty());
}

TEST(Safetensors, TensorsAreInTheOrderOfTheirBytes) {
  const Scratch scratch;
  const std::string json =
      R"({"z":{"dtype":"U8","shape":[1],"data_offsets":[1,2]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";
  std::string bytes(8, '\0');
  bytes[0] = static_cast<char>(json.size());
  const auto file = SafetensorsFile::open(scratch.write("file", bytes + json + "az"));
  EXPECT_EQ(file->tensors()[0].name, "a");
  EXPECT_EQ(text_of(*file, "z"), "z");
  EXPECT_EQ(file->find("z"), &file->tensors()[1]);
}

TEST(Safetensors, WriterRefusesBadDeclarations) {
  const Scratch scratch;
  const std::filesystem::path path = scratch.path() / "file";
  const auto refuses = [&](std::vector<TensorInfo> tensors) {
    EXPECT_THROW(SafetensorsWriter(path, std::move(tensors)), CheckpointError);
  };
  refuses({tensor("a", DType::kU8, {1}), tensor("a", DType::kU8, {1})});
  refuses({tensor("__metadata__", DType::kU8, {1})});
  refuses({tensor("a", DType::kU8, {-1})});
  refuses({tensor("a", DType::kF32, {std::int64_t{1} << 61})});
  refuses({tensor("a", DType::kU8, {3}), tensor("b", DType::kBF16, {1})});
  refuses({tensor("\xff", DType::kU8, {1})});
  EXPECT_THROW(SafetensorsWriter(scratch.path() / "absent" / "file", {}), CheckpointError);
  EXPECT_TRUE(std::filesystem::is_empty(scratch.path()));
}

TEST(Safetensors, UnfinishedWriterLeavesTheOldFile) {
  const Scratch scratch;
  const std::filesystem::path path = scratch.write("file", "old");
  {
    SafetensorsWriter writer(path, {tensor("a", DType::kU8, {4})});
    writer.write(bytes_of("12"));
  }
  EXPECT_EQ(read_bytes(path), "old");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(scratch.path()), {}), 1);
}

TEST(Safetensors, MappedFileSurvivesItsReplacement) {
  const Scratch scratch;
  const std::filesystem::path path = scratch.path() / "file";
  for (const std::string_view text : {"old.", "new."}) {
    std::shared_ptr<const SafetensorsFile> before;
    if (text == "new.") before = SafetensorsFile::open(path);
    SafetensorsWriter writer(path, {tensor("a", DType::kU8, {4})});
    writer.write(bytes_of(text));
    writer.finish();
    if (before != nullptr) {
      EXPECT_EQ(text_of(*before, "a"), "old.");
    }
  }
  EXPECT_EQ(text_of(*SafetensorsFile::open(path), "a"), "new.");
}

/// A limit on the size of files stands in for a full disk.
TEST(Safetensors, FullDiskFailsWithPathAndErrno) {
  const Scratch scratch;
  const std::filesystem::path path = scratch.path() / "file";
  rlimit before = {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  auto* const old_handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit limit = {1000, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  int error = 0;
  std::string message;
  try {
    SafetensorsWriter writer(path, {tensor("a", DType::kU8, {4000})});
    writer.write(bytes_of(std::string(4000, 'x')));
  } catch (const std::system_error& failure) {
    error = failure.code().value();
    message = failure.what();
  }
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_EQ(error, EFBIG);
  EXPECT_NE(message.find(path.string()), std::string::npos) << message;
  EXPECT_TRUE(std::filesystem::is_empty(scratch.path()));
}

TEST(Safetensors, GoldenFilesOpen) {
  const std::filesystem::path source(OSSATURE_SOURCE_DIR);
  int files = 0;
  for (const std::filesystem::path& root : {source / "tests/golden", source / "../shared/golden"}) {
    if (!std::filesystem::exists(root)) continue;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
      if (entry.path().extension() != ".safetensors") continue;
      ++files;
      EXPECT_FALSE(SafetensorsFile::open(entry.path())->tensors().empty()) << entry.path();
    }
  }
  EXPECT_GE(files, 5);
}

}  // namespace
}  // namespace ossature
