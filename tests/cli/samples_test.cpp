// What a run tells of itself as it goes besides its losses: sample replies, the load of its router, learned tokens by
// channel.
#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

#include "tests/cli/workspace.h"

namespace ossature {
namespace {

using nlohmann::json;

class ToldAsItGoes : public testing::Test {
 protected:
  std::string train(const std::string& run, const std::string& evaluation, int steps = 11) {
    const std::string dir = workspace_.path(run);
    const std::string recipe = workspace_.write(
        run + ".yaml", "base_model: " + model_ + "\noutput_dir: " + dir + "\ndata: {train: " + tokens_ +
                           ", sequence_length: 256}\nlora: {r: 4, lora_dropout: 0.2}\ntrain: {epochs: 100, "
                           "gradient_accumulation_steps: 2, learning_rate: 1.0e-2, warmup_steps: 0, max_steps: " +
                           std::to_string(steps) + "}\nevaluation: " + evaluation + "\n");
    const ProgramResult result = run_program({"train", recipe});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    said_ = result.err;
    return dir;
  }

  Workspace workspace_;
  std::string model_ = workspace_.small_model(), tokens_ = workspace_.tokens(24), said_;
};

/// On the embedded model, whose replies are in channels.
TEST_F(ToldAsItGoes, RepliesAreThoseOfGenerateAndChangeNothing) {
  model_ = kEmbedded;
  const std::string with =
      train("with", "{every_steps: 2, sample_prompts: [\"Who are you?\", \"Name a\\ncolour.\"], sample_tokens: 24}", 3);
  const std::string said = said_;
  const std::vector<json> samples = lines_of(with + "/samples.jsonl");
  ASSERT_EQ(samples.size(), 6U) << "two prompts before the first step, after the second and at the end";
  const auto generated = [&](const std::string& prompt, const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"generate", "--model",          model_, "--date", "none", "--prompt",
                                          prompt,     "--max-new-tokens", "24"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return json_of(arguments);
  };
  for (std::size_t i = 0; i < samples.size(); ++i) {
    const json& sample = samples[i];
    SCOPED_TRACE(sample.dump());
    EXPECT_EQ(sample["step"], std::vector<int>({0, 2, 3})[i / 2]);
    EXPECT_EQ(sample["prompt"], i % 2 == 0 ? "Who are you?" : "Name a\ncolour.");
    EXPECT_NE(said.find("\nstep " + sample["step"].dump() + "/3  \"" +
                        (i % 2 == 0 ? "Who are you?" : "Name a\\ncolour.") + "\": "),
              std::string::npos)
        << said;
    if (i / 2 == 1) continue;
    const std::vector<std::string> adapter = {"--adapter", with + "/adapter"};
    const json expected = generated(sample["prompt"], i / 2 == 0 ? std::vector<std::string>() : adapter);
    EXPECT_EQ(sample["finish"], expected["finish"]);
    EXPECT_EQ(sample["tokens"], expected["tokens"]);
    std::string thinking, reply;
    for (const json& message : sample["reply"]) {
      if (message["channel"] == "analysis") thinking += message["content"];
      if (message["channel"] == "final") reply += message["content"];
    }
    EXPECT_EQ(thinking, expected["thinking"]);
    EXPECT_EQ(reply, expected["reply"]);
    EXPECT_NE(thinking + reply, "");
  }
  EXPECT_NE(samples[0]["reply"], samples[4]["reply"]) << "the run has changed the model";

  const std::string without = train("without", "{every_steps: 2}", 3);
  EXPECT_FALSE(std::filesystem::exists(without + "/samples.jsonl"));
  EXPECT_TRUE(read_bytes(without + "/adapter/adapter_model.safetensors") ==
              read_bytes(with + "/adapter/adapter_model.safetensors"));
}

TEST_F(ToldAsItGoes, LoadsAndChannelsAddUp) {
  const std::string run = train("run", "{}");
  int steps = 0;
  for (const json& line : lines_of(run + "/metrics.jsonl")) {
    if (!line.contains("loss")) continue;
    ++steps;
    std::int64_t learned = 0;
    for (const auto& [channel, tokens] : line["channel_tokens"].items()) learned += tokens.get<std::int64_t>();
    EXPECT_EQ(learned, line["learned_tokens"]);
    ASSERT_EQ(line["router_load"].size(), 2U);
    EXPECT_EQ(line.contains("expert_tokens"), line["step"] == 1 || line["step"] == 11);
    if (!line.contains("expert_tokens")) continue;
    for (std::size_t n = 0; n < 2; ++n) {
      std::int64_t sum = 0, largest = 0;
      ASSERT_EQ(line["expert_tokens"][n].size(), 4U);
      for (const json& tokens : line["expert_tokens"][n]) {
        sum += tokens.get<std::int64_t>();
        largest = std::max(largest, tokens.get<std::int64_t>());
      }
      const auto config = json::parse(std::ifstream(model_ + "/config.json"));
      EXPECT_EQ(sum, line["tokens"].get<std::int64_t>() * config["num_experts_per_tok"].get<std::int64_t>());
      EXPECT_NEAR(line["router_load"][n].get<double>(), 4.0 * static_cast<double>(largest) / static_cast<double>(sum),
                  5e-4);
    }
  }
  EXPECT_EQ(steps, 11);
}

TEST_F(ToldAsItGoes, LayersThatRunAgainAreCountedOnce) {
  const std::string once = train("once", "{}", 2), recipe = workspace_.path("once.yaml"),
                    again = workspace_.path("again");
  output_of({"train", recipe, "output_dir=" + again, "train.recompute=on"});
  const auto expected = lines_of(once + "/metrics.jsonl"), found = lines_of(again + "/metrics.jsonl");
  ASSERT_EQ(found.size(), expected.size());
  EXPECT_EQ(found[0].count("expert_tokens"), 1U);
  for (std::size_t i = 0; i < found.size(); ++i)
    for (const char* key : {"loss", "router_load", "expert_tokens", "channel_tokens"})
      EXPECT_EQ(found[i].value(key, json()), expected[i].value(key, json())) << key;
}

TEST_F(ToldAsItGoes, ChannelsOfAnEpochAreThoseOfTheFile) {
  const std::string run = workspace_.path("epoch");
  output_of({"train", workspace_.write("epoch.yaml", "base_model: " + model_ + "\noutput_dir: " + run +
                                                         "\ndata: {train: " + tokens_ + ", sequence_length: 256}\n")});
  std::map<std::string, std::int64_t> learned;
  for (const json& line : lines_of(run + "/metrics.jsonl"))
    for (const auto& [channel, tokens] : line["channel_tokens"].items()) learned[channel] += tokens.get<std::int64_t>();
  const json inspected = json_of({"inspect", tokens_, "--tokenizer", kEmbedded});
  ASSERT_FALSE(inspected["channels"].empty());
  for (const json& row : inspected["channels"])
    EXPECT_EQ(learned[row["channel"]], row["learned_tokens"]) << row["channel"];
}

TEST_F(ToldAsItGoes, RefusesPromptsThatCannotBeAnswered) {
  const auto refused = [&](const std::string& evaluation, int exit_code, const std::vector<std::string>& mentions) {
    const std::string recipe = workspace_.write(
        "r.yaml", "base_model: " + model_ + "\noutput_dir: " + workspace_.path("refused") +
                      "\ndata: {train: " + tokens_ + ", sequence_length: 256}\nevaluation: " + evaluation + "\n");
    workspace_.expect_failure({"train", recipe}, exit_code, mentions);
  };
  refused("{sample_prompts: Hello}", 2, {"evaluation.sample_prompts is \"Hello\"; expected a list, each a text"});
  refused("{sample_tokens: 0}", 2, {"evaluation.sample_tokens is \"0\""});
  std::filesystem::remove(model_ + "/tokenizer.json");
  refused("{sample_prompts: [Hello]}", 3, {model_, "tokenizer.json"});
}

}  // namespace
}  // namespace ossature
