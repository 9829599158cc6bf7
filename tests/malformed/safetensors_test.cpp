// A good safetensors file broken in every way the format can be: one CheckpointError, no crash.
#include "model/files/safetensors.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "model/files/safetensors_header.h"
#include "tests/malformed/scratch.h"

namespace ossature {
namespace {

std::string file_of(const std::string& header, const std::string& data, std::uint64_t length) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + data;
}

/// Pads the header to 8 bytes, as writers do.
std::string file_of(std::string header, const std::string& data) {
  header.append((8 - header.size() % 8) % 8, ' ');
  return file_of(header, data, header.size());
}

const std::string kGoodHeader = R"({"__metadata__":{"format":"pt"},)"
                                R"("a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
                                R"("b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]},)"
                                R"("empty":{"dtype":"F32","shape":[0,5],"data_offsets":[32,32]},)"
                                R"("c":{"dtype":"U8","shape":[1,7],"data_offsets":[32,39]},)"
                                R"("scalar":{"dtype":"U8","shape":[],"data_offsets":[39,40]}})";
const std::string kGoodData(40, '\x5a');

/// The message of the CheckpointError that opening `bytes` gives; fails the test if there is none.
std::string message_of(const Scratch& scratch, const std::string& bytes) {
  const std::filesystem::path file = scratch.write("model.safetensors", bytes);
  try {
    (void)SafetensorsFile::open(file);
    ADD_FAILURE() << "was opened: " << bytes.substr(8, 300);
    return "";
  } catch (const CheckpointError& error) {
    const std::string what = error.what();
    EXPECT_EQ(what.rfind(file.string(), 0), 0U) << what;
    EXPECT_NE(what.find("; expected "), std::string::npos) << what;
    EXPECT_LT(what.size(), 1000U) << what;
    return what;
  }
}

std::string message_of_header(const std::string& header, const std::string& data = kGoodData) {
  const Scratch scratch;
  return message_of(scratch, file_of(header, data));
}

void expect_refused(const std::string& header, const std::string& mentions, const std::string& data = kGoodData) {
  const std::string message = message_of_header(header, data);
  EXPECT_NE(message.find(mentions), std::string::npos) << message;
}

/// The good header with the first `from` replaced by `to`.
std::string with(const std::string& from, const std::string& to) {
  std::string header = kGoodHeader;
  const std::size_t at = header.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return header.replace(at, from.size(), to);
}

TEST(HostileSafetensors, GoodFileOpens) {  // or the tests below prove nothing
  const Scratch scratch;
  const auto file = SafetensorsFile::open(scratch.write("good", file_of(kGoodHeader, kGoodData)));
  EXPECT_EQ(file->tensors().size(), 5U);
}

TEST(HostileSafetensors, TruncatedAtEveryLength) {
  const Scratch scratch;
  const std::string good = file_of(kGoodHeader, kGoodData);
  for (std::size_t length = 0; length < good.size(); ++length) (void)message_of(scratch, good.substr(0, length));
}

TEST(HostileSafetensors, BytesBehindTheLastTensor) {
  expect_refused(kGoodHeader, "40 to 41 belong to no tensor", kGoodData + "x");
  expect_refused("{}", "0 to 40 belong to no tensor");
}

TEST(HostileSafetensors, HeaderLength) {
  const Scratch scratch;
  for (const std::uint64_t length : {std::uint64_t{100'000'001}, std::uint64_t{1} << 62, ~std::uint64_t{0},
                                     ~std::uint64_t{0} - 7, std::uint64_t{1} << 63})
    EXPECT_NE(message_of(scratch, file_of(kGoodHeader, kGoodData, length)).find("at most 100000000"),
              std::string::npos);
  for (const std::uint64_t length :
       {std::uint64_t{100'000'000}, std::uint64_t{kGoodHeader.size() + kGoodData.size() + 1}})
    EXPECT_NE(message_of(scratch, file_of(kGoodHeader, kGoodData, length)).find("inside the file"), std::string::npos);
  for (const std::uint64_t length : {0, 1, 2, 100})
    EXPECT_FALSE(message_of(scratch, file_of(kGoodHeader, kGoodData, length)).empty());
}

TEST(HostileSafetensors, OverlapsAndHoles) {
  expect_refused(with("[24,32]", "[22,30]"), "overlaps");
  expect_refused(with("[32,39]", "[24,31]"), "overlaps");
  expect_refused(with("[0,24]", "[8,32]"), "0 to 8 before");
  expect_refused(with("[24,32]", "[26,34]"), "tensor \"");
  expect_refused(with("[32,32]", "[10,10]"), "overlaps");  // an empty tensor inside another
  expect_refused(with("[39,40]", "[38,39]"), "overlaps");
}

TEST(HostileSafetensors, Offsets) {
  expect_refused(with("[0,24]", "[24,0]"), "the end not before the beginning");
  expect_refused(with("[39,40]", "[40,41]"), "but the file has 40 bytes of data");
  expect_refused(with("[39,40]", "[39,18446744073709551615]"), "but the file has 40 bytes of data");
  expect_refused(with("[39,40]", "[39,18446744073709551616]"), "has the number 18446744073709551616");
  expect_refused(with("[39,40]", "[-1,40]"), "negative number -1 in its data_offsets");
  expect_refused(with("[39,40]", "[39.0,40]"), "the number 39.0 in its data_offsets");
  expect_refused(with("[39,40]", "[39]"), "fewer than two data_offsets");
  expect_refused(with("[39,40]", "[]"), "fewer than two data_offsets");
  expect_refused(with("[39,40]", "[39,40,40]"), "more than two data_offsets");
  expect_refused(with("[39,40]", "[[39,40]]"), "an array in its data_offsets");
  expect_refused(with("[39,40]", "\"39,40\""), "a string for data_offsets");
  expect_refused(with("[39,40]", "{}"), "an object for data_offsets");
  expect_refused(with("[39,40]", "null"), "null for data_offsets");
}

TEST(HostileSafetensors, Shapes) {
  expect_refused(with("[2,3]", "[2,4]"), "24 bytes for F32 [2, 4]");
  expect_refused(with("[2,3]", "[]"), "24 bytes for F32 []");
  expect_refused(with("[0,5]", "[1]"), "0 bytes for F32 [1]");
  expect_refused(with("[2,3]", "[-2,-3]"), "negative number -2 in its shape");
  expect_refused(with("[2,3]", "[2.0,3]"), "the number 2.0 in its shape");
  expect_refused(with("[2,3]", "[6e0]"), "the number 6e0 in its shape");
  expect_refused(with("[2,3]", "[9223372036854775808]"), "a dimension of 9223372036854775808");
  expect_refused(with("[2,3]", "[9223372036854775807]"), "24 bytes for F32 [9223372036854775807]");
  // 2^33 * 2^31 * 4 is 0 in 64 bits, and 2^62 * 4 + 24 is 24.
  expect_refused(with("[0,5]", "[8589934592,2147483648]"), "0 bytes for F32");
  expect_refused(with("[2,3]", "[4611686018427387910]"), "24 bytes for F32");
  expect_refused(with("[2,3]", "[1,1,1,1,1,1,1,2,3]"), "more than 8 dimensions");
  expect_refused(with("[2,3]", "[[2,3]]"), "an array in its shape");
  expect_refused(with("[2,3]", "[2,null]"), "null in its shape");
  expect_refused(with("[2,3]", "[true]"), "true in its shape");
  expect_refused(with("[2,3]", "[\"6\"]"), "a string in its shape");
  expect_refused(with("[2,3]", "6"), "a number for shape");
}

TEST(HostileSafetensors, DTypes) {
  expect_refused(with("F32", "F16"), "24 bytes for F16 [2, 3]");
  expect_refused(with("F32", "F33"), "dtype \"F33\"");
  expect_refused(with("F32", "f32"), "dtype \"f32\"");
  expect_refused(with("F32", ""), "dtype \"\"");
  expect_refused(with("\"F32\"", "32"), "a number for dtype");
  expect_refused(with("\"F32\"", "[\"F32\"]"), "an array for dtype");
}

TEST(HostileSafetensors, Fields) {
  expect_refused(with("\"dtype\":\"F32\",", ""), "\"a\" has no dtype");
  expect_refused(with("\"shape\":[2,3],", ""), "\"a\" has no shape");
  expect_refused(with(",\"data_offsets\":[0,24]", ""), "\"a\" has no data_offsets");
  expect_refused(with("\"shape\":[2,3]", "\"shape\":[2,3],\"shape\":[2,3]"), "has shape twice");
  expect_refused(with("\"dtype\":\"F32\"", "\"dtype\":\"F32\",\"dtype\":\"F32\""), "has dtype twice");
  expect_refused(with("[0,24]", "[0,24],\"data_offsets\":[0,24]"), "has data_offsets twice");
  expect_refused(with("\"shape\":[2,3]", "\"shape\":[2,3],\"strides\":[3,1]"), "a field \"strides\"");
}

TEST(HostileSafetensors, Names) {
  expect_refused(with("\"b\"", "\"a\""), "\"a\" stands in the header twice");
  expect_refused(with("\"b\"", "\"\\u0061\""), "\"a\" stands in the header twice");
  expect_refused(with("\"scalar\"", "\"__metadata__\""), "\"__metadata__\" stands in the header twice");
  const std::string message =
      message_of_header(with("\"a\":{\"dtype\":\"F32\"", "\"\\u001b[31m\\u0000\":{\"dtype\":\"X\""));
  EXPECT_EQ(message.find('\x1b'), std::string::npos) << "a terminal would obey it";
  EXPECT_NE(message.find("\\u001b[31m\\u0000"), std::string::npos) << message;
  EXPECT_LT(
      message_of_header(with("\"a\":{\"dtype\":\"F32\"", "\"" + std::string(100'000, 'n') + "\":{\"dtype\":\"X\""))
          .size(),
      500U);
}

TEST(HostileSafetensors, Metadata) {
  expect_refused(with("\"pt\"", "1"), "a number for \"format\"");
  expect_refused(with("\"pt\"", "null"), "null for \"format\"");
  expect_refused(with("\"pt\"", "{}"), "an object for \"format\"");
  expect_refused(with("\"pt\"", "[\"pt\"]"), "an array for \"format\"");
  expect_refused(with("{\"format\":\"pt\"}", "\"pt\""), "a string for \"__metadata__\"");
  expect_refused(with("\"pt\"", "\"pt\",\"format\":\"pt\""), "\"format\" twice");
}

TEST(HostileSafetensors, HeaderIsNotTheJsonExpected) {
  for (const std::string& header : {std::string("[]"),
                                    std::string("null"),
                                    std::string("1"),
                                    std::string("\"a\""),
                                    std::string("{"),
                                    std::string("{]"),
                                    std::string("{\"a\":1}"),
                                    std::string("{\"a\":null}"),
                                    std::string("{\"a\":[]}"),
                                    std::string("{\"a\":{}}"),
                                    std::string("{\"a\":\"b\"}"),
                                    std::string("{\"a\":true}"),
                                    std::string("{} {}"),
                                    std::string("{},"),
                                    std::string("\xef\xbb\xbf{}"),
                                    std::string(" {}"),
                                    std::string("{\"a\xff\":{}}"),
                                    std::string("{\"\xc0\xaf\":{}}"),
                                    std::string("{\"\xed\xa0\x80\":{}}"),
                                    std::string("{\"\\ud800\":{}}"),
                                    std::string("{\0}", 3),
                                    std::string("{//\n}"),
                                    std::string("{'a':{}}")})
    EXPECT_FALSE(message_of_header(header).empty());
}

TEST(HostileSafetensors, NestsDeep) {
  std::string arrays = "{\"a\":{\"shape\":";
  arrays.append(5'000'000, '[');
  expect_refused(arrays, "an array in its shape");
  std::string objects = "{\"__metadata__\":";
  for (int i = 0; i < 1'000'000; ++i) objects += "{\"a\":";
  expect_refused(objects, "an object for \"a\"");
}

TEST(HostileSafetensors, TensorsThatLieMisaligned) {
  expect_refused(
      R"({"c":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"BF16","shape":[2],"data_offsets":[1,5]}})",
      "a multiple of the 2 bytes", std::string(5, 'x'));
  const Scratch scratch;
  const std::string header = R"({"b":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}})";
  const std::string odd = header.size() % 2 == 1 ? header : header + " ";
  EXPECT_NE(message_of(scratch, file_of(odd, "1234", odd.size())).find("a multiple of the 2 bytes"), std::string::npos);
  EXPECT_NO_THROW((void)SafetensorsFile::open(scratch.write("even", file_of(odd + " ", "1234", odd.size() + 1))));
}

TEST(HostileSafetensors, IsNoFile) {
  const Scratch scratch;
  EXPECT_THROW((void)SafetensorsFile::open(scratch.path()), CheckpointError);
  EXPECT_THROW((void)SafetensorsFile::open(scratch.path() / "absent"), CheckpointError);
  EXPECT_THROW((void)SafetensorsFile::open("/dev/zero"), CheckpointError);
  const std::filesystem::path pipe = scratch.path() / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_THROW((void)SafetensorsFile::open(pipe), CheckpointError);
  std::filesystem::create_symlink("loop", scratch.path() / "loop");
  EXPECT_THROW((void)SafetensorsFile::open(scratch.path() / "loop"), CheckpointError);
}

/// Whatever opens must be safe to use: every tensor inside the data, as many bytes as its shape says.
void expect_sound(const SafetensorsHeader& header, std::uint64_t data_bytes) {
  std::uint64_t covered = 0;
  for (const TensorInfo& info : header.tensors) {
    std::uint64_t bytes = 0;
    ASSERT_TRUE(byte_count(info.dtype, info.shape, bytes));
    ASSERT_EQ(info.begin, covered);
    ASSERT_EQ(info.end - info.begin, bytes);
    covered = info.end;
  }
  ASSERT_EQ(covered, data_bytes);
}

TEST(HostileSafetensors, RandomMutationsOpenSoundlyOrAreRefused) {
  std::mt19937 random(20261124);
  const std::string alphabet = "0123456789-+.eE\"\\{}[],:ntfu \xff";
  int opened = 0;
  int refused = 0;
  for (int i = 0; i < 10'000; ++i) {
    std::string header = kGoodHeader;
    for (unsigned j = 0; j <= random() % 4; ++j) {
      const std::size_t at = random() % header.size();
      switch (random() % 5) {
        case 0:
          header[at] = static_cast<char>(random());
          break;
        case 1:
          header[at] = alphabet[random() % alphabet.size()];
          break;
        case 2:
          header.erase(at, 1 + random() % 8);
          if (header.empty()) header = " ";
          break;
        case 3:
          header.insert(at, 1, ' ');
          break;
        default:
          header.insert(at, header.substr(random() % header.size(), random() % 40));
      }
    }
    try {
      const SafetensorsHeader parsed = parse_safetensors_header(header, 8, kGoodData.size(), "mutated");
      expect_sound(parsed, kGoodData.size());
      ++opened;
    } catch (const CheckpointError&) {
      ++refused;
    }
  }
  EXPECT_GT(opened, 100);
  EXPECT_GT(refused, 5'000);
}

TEST(HostileSafetensors, RandomMutationsOfAFileOpenSoundlyOrAreRefused) {
  const Scratch scratch;
  std::mt19937 random(3);
  const std::string good = file_of(kGoodHeader, kGoodData);
  for (int i = 0; i < 2'000; ++i) {
    std::string bytes = good;
    bytes[random() % bytes.size()] = static_cast<char>(random());
    if (random() % 4 == 0) bytes.resize(random() % bytes.size());
    try {
      const auto file = SafetensorsFile::open(scratch.write("mutated", bytes));
      unsigned sum = 0;
      for (const TensorInfo& info : file->tensors())
        for (const std::byte byte : file->bytes(info)) sum += static_cast<unsigned>(byte);
      ASSERT_LE(sum, 255U * 40U);
    } catch (const CheckpointError&) {
    }
  }
}

TEST(HostileSafetensors, ManyTensorsAreReadInLinearTime) {
  std::string header = "{";
  for (int i = 0; i < 200'000; ++i)
    header += "\"t" + std::to_string(i) + "\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},";
  header.back() = '}';
  EXPECT_EQ(parse_safetensors_header(header, 8, 0, "many").tensors.size(), 200'000U);
}

}  // namespace
}  // namespace ossature
