// `ossature report` on runs that are complete, interrupted and only begun, with text that would act on a page, and on
// what is no run.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <string>
#include <vector>

#include "data/sha256.h"
#include "tests/cli/workspace.h"
#include "tests/support/occurrences.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// Every element but those without an end is closed, in order; attributes are quoted; nothing is fetched or run.
void expect_sound(const std::string& page) {
  EXPECT_TRUE(page.starts_with("<!DOCTYPE html>\n"));
  const std::regex tag(R"(<(/?)([a-zA-Z0-9]+)((?: [a-zA-Z0-9-]+="[^"<>]*")*)(/?)>)");
  const std::regex acts(" (on[a-z]*|src|href|style|action)=");
  std::vector<std::string> open;
  std::size_t tags = 0;
  for (std::sregex_iterator at(page.begin(), page.end(), tag), end; at != end; ++at, ++tags) {
    const std::string name = (*at)[2], attributes = (*at)[3];
    for (const char* active : {"script", "img", "iframe", "object", "embed", "link", "base", "form", "a"})
      EXPECT_NE(name, active);
    EXPECT_FALSE(std::regex_search(attributes, acts)) << attributes;
    if ((*at)[4] == "/" || name == "meta") continue;
    if ((*at)[1] == "") {
      open.push_back(name);
    } else {
      ASSERT_FALSE(open.empty()) << name;
      ASSERT_EQ(open.back(), name) << "at " << at->position();
      open.pop_back();
    }
  }
  EXPECT_TRUE(open.empty());
  EXPECT_EQ(static_cast<std::size_t>(std::count(page.begin(), page.end(), '<')), tags + 1)
      << "but for the first line, all that looks like a tag is one";
  for (const char* fetches : {"url(", "@import"}) EXPECT_EQ(page.find(fetches), std::string::npos) << fetches;
}

/// The cell beside the head `name`; "" if there is none.
std::string cell(const std::string& page, const std::string& name) {
  const std::string head = "<th scope=\"row\">" + name + "</th><td class=\"text\">";
  const std::size_t begin = page.find(head);
  if (begin == std::string::npos) return "";
  return page.substr(begin + head.size(), page.find("</td>", begin) - begin - head.size());
}

class Report : public testing::Test {
 protected:
  [[nodiscard]] std::string recipe(int steps) const {
    const std::string model = workspace_.small_model(), tokens = workspace_.tokens(24);
    return workspace_.write(
        "recipe.yaml",
        "base_model: " + model + "\noutput_dir: " + run_ + "\ndata: {train: " + tokens + ", validation: " + tokens +
            ", sequence_length: 128}\nlora: {r: 4}\n"
            "train: {epochs: 100, learning_rate: 1.0e-2, warmup_steps: 2, threads: "
            "1, max_steps: " +
            std::to_string(steps) + "}\nevaluation: {every_steps: 4, sample_prompts: [Hello], sample_tokens: 8}\n");
  }
  std::string page_of(const std::string& run) const {
    EXPECT_EQ(output_of({"report", run}), run + "/report.html\n");
    const std::string page = read_bytes(run + "/report.html");
    expect_sound(page);
    return page;
  }

  Workspace workspace_;
  std::string run_ = workspace_.path("run");
};

TEST_F(Report, OfACompleteRun) {
  output_of({"train", recipe(8)});
  const std::string page = page_of(run_);
  const json inspected = json_of({"inspect", run_}), tokens = json_of({"inspect", workspace_.path("tokens.h5")});
  char loss[32];
  std::snprintf(loss, sizeof loss, "%.6g", inspected["last_loss"].get<double>());
  EXPECT_EQ(cell(page, "last loss"), loss);
  EXPECT_EQ(cell(page, "steps"), "8");
  EXPECT_EQ(cell(page, "lora.r"), "<mark>4</mark>");
  EXPECT_EQ(cell(page, "dtype"), "bfloat16") << "a default is not marked";
  EXPECT_EQ(cell(page, "base_model"), workspace_.path("small")) << "has no default that it could differ from";
  EXPECT_EQ(count(page, "<svg class=\"chart\""), 4U);
  EXPECT_EQ(count(page, "class=\"dot\""), 4U) << "validations at 0, 4, 8 and in the legend";
  EXPECT_EQ(count(page, "<svg class=\"heat\""), 4U) << "projections, both kinds of experts, and the router's load";
  EXPECT_NE(page.find("over 1 step. "), std::string::npos) << "of 8 the first alone tells each expert's tokens";
  EXPECT_NE(page.find("Learned in the steps so far"), std::string::npos);
  EXPECT_EQ(count(page, "<h4>Before training</h4>"), 1U);
  EXPECT_EQ(count(page, "<h4>After step 8</h4>"), 1U);
  EXPECT_EQ(count(page, "<summary>1 between</summary>"), 1U) << "after step 4";
  for (const char* file : {"adapter_model.safetensors", "adapter_config.json"})
    EXPECT_NE(page.find(sha256_hex(read_bytes(run_ + "/adapter/" + file))), std::string::npos) << file;
  EXPECT_NE(page.find(">" + std::to_string(tokens["learned_tokens"].get<int>())), std::string::npos);
  EXPECT_NE(page.find("final"), std::string::npos) << "channels, by the base model's tokenizer";
  EXPECT_NE(page.find("LibTorch "), std::string::npos);
  EXPECT_EQ(page.find("What is not here"), std::string::npos);
  EXPECT_EQ(page_of(run_), page) << "a second report replaces the first and is the same";
}

TEST_F(Report, NormsByGroupAreThoseOfTheAdapter) {
  output_of({"train", recipe(11)});
  std::string last;
  std::ifstream metrics(run_ + "/metrics.jsonl");
  for (std::string line; std::getline(metrics, line);)
    if (line.find("grad_norms") != std::string::npos) last = line;
  const json step = json::parse(last);
  double squares = 0.0;
  for (const auto& [group, norm] : step["grad_norms"].items()) squares += norm.get<double>() * norm.get<double>();
  EXPECT_NEAR(std::sqrt(squares), step["grad_norm"].get<double>(), 1e-9);
  std::map<std::string, double> adapter;
  const json measured = json_of({"adapter", "info", run_ + "/adapter"});  // by singular values
  for (const json& row : measured["weights"]) adapter[row["weight"]] += std::pow(row["norm"].get<double>(), 2);
  ASSERT_EQ(adapter.size(), 6U);
  const std::string page = page_of(run_);
  for (const auto& [group, square] : adapter) {
    EXPECT_NEAR(step["adapter_norms"][group].get<double>(), std::sqrt(square), 1e-4 * std::sqrt(square)) << group;
    EXPECT_NE(page.find("<tr><td class=\"text\">" + group + "</td><td class=\"number\">"), std::string::npos) << group;
  }
}

TEST_F(Report, MarksWhereARunWentOn) {
  const std::string file = recipe(6);
  ASSERT_EQ(run_program({"train", file}, {.interrupt_after = "step 3/6"}).exit_code, 130);
  const std::string unfinished = page_of(run_);
  EXPECT_NE(unfinished.find("no result is written yet"), std::string::npos);
  EXPECT_EQ(unfinished.find("What is not here"), std::string::npos) << "its checkpoint has an adapter";
  const std::string heading = ">Adapter after step ";
  const std::size_t after = unfinished.find(heading);
  ASSERT_NE(after, std::string::npos);
  const std::string step = unfinished.substr(after + heading.size(), 1);  // 3, or a later one if the signal was slow
  const auto maps = [](const std::string& page) {
    const std::size_t begin = page.find("<div class=\"maps\">");
    return page.substr(begin, page.find("</details>", begin) - begin);
  };
  const std::string ended = workspace_.path("ended");
  fs::copy(run_, ended, fs::copy_options::recursive);
  output_of({"train", file, "output_dir=" + ended, "train.max_steps=" + step, "--resume"});
  ASSERT_TRUE(fs::exists(ended + "/adapter"));
  const std::string page_of_ended = page_of(ended);
  EXPECT_NE(page_of_ended.find(">Adapter</h2>"), std::string::npos);
  EXPECT_EQ(maps(unfinished), maps(page_of_ended)) << "the norms of the adapter that the checkpoint would give";
  EXPECT_EQ(count(unfinished, "class=\"mark\""), 0U);
  output_of({"train", file, "--resume"});
  const std::string page = page_of(run_);
  EXPECT_EQ(count(page, "class=\"mark\""), 4U) << "a line in each chart";
  EXPECT_EQ(cell(page, "steps"), "6");
}

TEST_F(Report, OfARunThatHasJustBegunAndWhoseFilesAreGone) {
  workspace_.write("run/recipe.yaml", "base_model: gone\noutput_dir: run\ndata: {train: gone.h5}\n");
  const std::string page = page_of(run_);
  EXPECT_EQ(count(page, "no values yet</text>"), 4U);
  EXPECT_EQ(count(page, "<li>"), 3U) << "data, base model and adapter";
  workspace_.write("run/metrics.jsonl", "{\"step\": 1, \"loss\": 2.5}\n[]\nnonsense\n{\"step\": 2, \"lo");
  workspace_.write("run/sessions.jsonl", "{\"first_step\": \"x\"}\n7\n{\"sta");
  EXPECT_EQ(cell(page_of(run_), "last loss"), "2.5");
}

TEST_F(Report, TextOfOthersCannotActOnThePage) {
  const std::string evil = "</style></title><script>alert('1')</script>\"><img src=x onload=alert(2)>&lt;\\u202e";
  const json quoted = evil;
  const std::string run = workspace_.path("<script>alert(0)<\"'&>");
  fs::create_directories(run);
  const auto write = [&](const char* name, const std::string& text) { std::ofstream(run + "/" + name) << text; };
  write("recipe.yaml", "base_model: " + quoted.dump() + "\noutput_dir: run\ndata: {train: " + quoted.dump() +
                           "}\nlora: {target_modules: [" + quoted.dump() + "]}\n");
  write("metrics.jsonl",
        json{{"step", 1}, {"skipped_steps", 1}, {"non_finite", evil}, {"samples", evil + "\x1b[31m"}}.dump() + "\n");
  std::ofstream(run + "/metrics.jsonl", std::ios::app)
      << json{{"step", 2}, {"loss", 1.0}, {"channel_tokens", {{evil, 3}}}, {"expert_tokens", {{1, 2}, {3}}}}.dump() +
             "\n";
  write("samples.jsonl",
        json{{"step", 0}, {"prompt", evil}, {"reply", {{{"channel", evil}, {"recipient", evil}, {"content", evil}}}}}
                .dump() +
            "\n7\n{\"reply\": [7]}\n{\"rep");
  write("sessions.jsonl",
        json{{"started", evil}, {"version", evil}, {"processor", evil}, {"first_step", 2}}.dump() + "\n");
  const std::string page = page_of(run);
  EXPECT_GE(count(page, "&lt;script&gt;alert(&#39;1&#39;)"), 12U);
  EXPECT_EQ(page.find("Router load"), std::string::npos) << "rows of unequal lengths are no map";
  EXPECT_EQ(page.find('\x1b'), std::string::npos);
  EXPECT_NE(page.find("<h1>Run &lt;script&gt;alert(0)&lt;&quot;&#39;&amp;&gt;</h1>"), std::string::npos);
}

TEST_F(Report, GoesWhereItIsTold) {
  workspace_.write("run/recipe.yaml", "base_model: gone\noutput_dir: run\ndata: {train: gone.h5}\n");
  const std::string out = workspace_.path("new/page.html");
  EXPECT_EQ(output_of({"report", run_, "--out", out}), out + "\n");
  EXPECT_EQ(output_of({"report", run_, "--out", out}), out + "\n") << "a report may be replaced";
  EXPECT_FALSE(fs::exists(run_ + "/report.html"));
}

TEST_F(Report, Refuses) {
  workspace_.expect_failure({"report", run_}, 3, {run_, "there is nothing of this name"});
  const std::string file = workspace_.write("notes.txt", "mine");
  workspace_.expect_failure({"report", file}, 3, {file, "is no run folder"});
  workspace_.expect_failure({"report", kEmbedded}, 3, {kEmbedded, "is no run folder", "recipe.yaml"});
  workspace_.expect_failure({"report"}, 2, {"RUN"});
  workspace_.write("run/recipe.yaml", "base_model: gone\noutput_dir: run\ndata: {train: gone.h5}\n");
  workspace_.expect_failure({"report", run_, "--out", file}, 3, {file, "is no report"});
  workspace_.expect_failure({"report", run_, "--out", run_}, 3, {run_, "is a directory"});
  workspace_.expect_failure({"report", run_, "--out", file + "/page.html"}, 3, {"is not a directory"});
  workspace_.expect_failure({"report", run_}, 5, {"report.html"}, {.max_file_bytes = 100});
  workspace_.write("run/recipe.yaml", "base_model: [");
  workspace_.expect_failure({"report", run_}, 2, {"recipe.yaml:1:"});
}

}  // namespace
}  // namespace ossature
