#include "train/reports/model_card.h"

#include <gtest/gtest.h>

#include <fstream>
#include <span>

#include "model/files/checkpoint_error.h"
#include "model/files/gguf_writer.h"
#include "tests/malformed/scratch.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;

const fs::path kSmall = fs::path(OSSATURE_SOURCE_DIR) / "tests/golden/small";

ModelCard merged() {
  ModelCard card;
  card.version = "1.2.3";
  card.base = {
      "gpt-oss-20b",
      1.0,
      {{"config.json", 99, std::string(64, 'a'), false}, {"model.safetensors", 1000, std::string(64, 'b'), true}}};
  card.adapters = {{"support", 1.0, {{"adapter_model.safetensors", 7, std::string(64, 'c'), false}}},
                   {"tone", -0.5, {}}};
  card.format = "hf";
  card.experts = "mxfp4";
  card.rounding = "calibrated";
  card.base_model = "openai/gpt-oss-20b";
  card.license = "apache-2.0";
  card.verification = CardVerification{"validation.h5", 5120, 2.5, 1.5, 1.51, 0.99, 0.0012, 0.987};
  return card;
}

void expect_parts(const std::string& text, const std::vector<std::string>& parts) {
  std::size_t at = 0;
  for (const std::string& part : parts) {
    const std::size_t found = text.find(part, at);
    ASSERT_NE(found, std::string::npos) << "no, or not in this order: " << part << "\nin\n" << text;
    at = found + part.size();
  }
}

TEST(ModelCard, TellsWhatWasMergedFromWhatAndWhatWasFound) {
  expect_parts(
      to_markdown(merged()),
      {"---\nbase_model: \"openai/gpt-oss-20b\"\nbase_model_relation: finetune\nlicense: \"apache-2.0\"\n"
       "library_name: transformers\n",
       "- lora\n---\n", "# gpt-oss-20b + support + tone\n",
       "gpt-oss-20b with the LoRA adapter support, and the LoRA adapter tone times -0.5 merged", "Ossature 1.2.3",
       "MXFP4; merged experts were rounded with calibration data", "| base gpt-oss-20b |  | config.json | 99 | `aaaa",
       "| model.safetensors (header) | 1000 | `bbbb", "| adapter support | 1 | adapter\\_model.safetensors | 7 | `cccc",
       "5120 held-out tokens of validation.h5", "| loss of the base | 2.5000 |",
       "| loss of base and adapter | 1.5000 |", "| loss of this model | 1.5100 |",
       "| retention of what was learned | 99.0 % |", "| 0.0012 |", "| 98.70 % |"});
}

TEST(ModelCard, LeavesOutWhatIsNotKnown) {
  ModelCard card = merged();
  card.adapters.clear();
  card.rounding = "";
  card.base_model.reset();
  card.license.reset();
  card.verification.reset();
  card.format = "openai";
  const std::string text = to_markdown(card);
  for (const char* part : {"base_model", "license", "library_name", "lora", "LoRA", "Verification", "rounded"})
    EXPECT_EQ(text.find(part), std::string::npos) << part << " in\n" << text;
  EXPECT_NE(text.find("gpt-oss-20b in another layout, written by Ossature 1.2.3."), std::string::npos) << text;
}

TEST(ModelCard, TellsTheHubHowTheModelComesFromItsBase) {
  ModelCard card = merged();
  card.adapters.clear();
  EXPECT_NE(to_markdown(card).find("base_model_relation: quantized\n"), std::string::npos);
  card.rounding = "";  // another layout of the same values
  EXPECT_EQ(to_markdown(card).find("base_model_relation"), std::string::npos);
}

TEST(ModelCard, NamesLayersInBfloat16) {
  ModelCard card = merged();
  card.experts = "mixed";
  card.rounding = "";
  card.bf16_expert_layers = {3, 17};
  expect_parts(to_markdown(card), {"in MXFP4, those of layers 3, 17 in bfloat16. Tensors"});
}

TEST(ModelCard, TellsOfARecovery) {
  ModelCard card = merged();
  card.recovered_steps = 40;
  expect_parts(to_markdown(card), {"rounded with calibration data, and their biases were then trained", "for 40 steps",
                                   "(recovered). Other tensors that no adapter changes"});
}

TEST(ModelCard, NamesOfOthersAreNoMarkup) {
  ModelCard card = merged();
  card.base.name = "a|b\n# c <i>";
  card.base_model = "x\"\nlicense: mit";
  const std::string text = to_markdown(card);
  EXPECT_NE(text.find("# a\\|b\\\\n\\# c \\<i\\>"), std::string::npos) << text;
  EXPECT_NE(text.find("base_model: \"x\\\"\\\\nlicense: mit\"\n"), std::string::npos) << text;
}

TEST(ModelCardSource, DigestsFilesWholeAndWeightsByTheirHeader) {
  const Scratch scratch;
  scratch.write("mine/config.json", "abc");
  fs::copy_file(kSmall / "hf/model.safetensors", scratch.path() / "mine/model.safetensors");
  const fs::path weights = scratch.path() / "mine/model.safetensors";
  const auto digest = [&] {
    return card_source(scratch.path() / "mine/", {scratch.path() / "mine/config.json", weights});
  };
  const CardSource source = digest();
  EXPECT_EQ(source.name, "mine");
  ASSERT_EQ(source.files.size(), 2U);
  // FIPS 180-4's own example.
  EXPECT_EQ(source.files[0].sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_FALSE(source.files[0].header_only);
  EXPECT_EQ(source.files[1].bytes, fs::file_size(weights));
  EXPECT_TRUE(source.files[1].header_only);
  // The last byte of the file is no part of the header, its ninth is.
  const auto change = [&](std::streamoff at, std::ios::seekdir from) {
    std::fstream file(weights, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(at, from);
    file.put(' ');
  };
  change(-1, std::ios::end);
  EXPECT_EQ(digest().files[1].sha256, source.files[1].sha256);
  change(8, std::ios::beg);
  EXPECT_NE(digest().files[1].sha256, source.files[1].sha256);
}

/// A GGUF file may hold all of a model: read whole, it would be all of the memory that there is.
TEST(ModelCardSource, DigestsAGgufFileByItsHeader) {
  const Scratch scratch;
  const fs::path path = scratch.path() / "model.gguf";
  const auto digest = [&](float value, const std::string& key) {
    GgufWriter writer(path, {{key, true}}, {{"t", GgmlType::kF32, {1}}});
    writer.write(std::as_bytes(std::span(&value, 1)));
    writer.finish();
    const CardSource source = card_source(path, {path});
    EXPECT_TRUE(source.files[0].header_only);
    EXPECT_EQ(source.files[0].bytes, fs::file_size(path));
    return source.files[0].sha256;
  };
  EXPECT_EQ(digest(1, "a"), digest(2, "a"));
  EXPECT_NE(digest(1, "a"), digest(1, "b"));
}

TEST(ModelCardSource, IsNamedAfterTheDirectoryAboveOriginal) {
  EXPECT_EQ(card_source("/models/gpt-oss-20b/original", {}).name, "gpt-oss-20b");
  EXPECT_EQ(card_source("/models/gpt-oss-20b//", {}).name, "gpt-oss-20b");
}

TEST(ModelCardSourceRefuses, FilesThatAreNone) {
  const Scratch scratch;
  EXPECT_THROW((void)card_source(scratch.path(), {scratch.path() / "absent"}), CheckpointError);
  EXPECT_THROW((void)card_source(scratch.path(), {scratch.write("a.safetensors", "short")}), CheckpointError);
  EXPECT_THROW(
      (void)card_source(scratch.path(), {scratch.write("b.safetensors", std::string("\5\0\0\0\0\0\0\0{}", 10))}),
      CheckpointError);
}

TEST(ModelCardHubName, IsOneOfTheHubAndNoDirectory) {
  EXPECT_EQ(hub_name("openai/gpt-oss-20b"), "openai/gpt-oss-20b");
  for (const char* other : {"", "gpt-oss-20b", "/models/gpt-oss-20b", "models/", "/models", "a/b/c", "./models", "../x",
                            "a b/c", "tests/x\n"})
    EXPECT_EQ(hub_name(other), std::nullopt) << other;
  EXPECT_EQ(hub_name(kSmall / "hf"), std::nullopt);
}

TEST(ModelCardFrontMatter, ValuesOfOneLine) {
  const Scratch scratch;
  scratch.write("README.md", "---\r\nlicense: apache-2.0\r\nname: 'x y'\nlist:\n- a\n---\nlicense: other\nafter: 1\n");
  EXPECT_EQ(front_matter(scratch.path(), "license"), "apache-2.0");
  EXPECT_EQ(front_matter(scratch.path(), "name"), "x y");
  for (const char* key : {"list", "after", "absent"}) EXPECT_EQ(front_matter(scratch.path(), key), std::nullopt) << key;
  scratch.write("README.md", "license: apache-2.0\n");
  EXPECT_EQ(front_matter(scratch.path(), "license"), std::nullopt);
  EXPECT_EQ(front_matter(scratch.path() / "absent", "license"), std::nullopt);
}

}  // namespace
}  // namespace ossature
