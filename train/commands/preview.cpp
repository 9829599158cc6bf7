#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <memory>
#include <optional>
#include <sstream>
#include <string_view>
#include <utility>

#include "data/harmony/harmony.h"
#include "data/records/formats.h"
#include "data/records/records.h"
#include "data/token_file/token_file.h"
#include "model/checkpoint/checkpoint_writer.h"
#include "train/commands/arguments.h"
#include "train/commands/command.h"
#include "train/commands/numbers.h"
#include "train/commands/sample_options.h"
#include "train/reports/preview.h"

namespace ossature {
namespace {

struct Options {
  std::filesystem::path file, tokenizer, html;
  SampleOptions samples;
  std::int64_t sample = 0, count = 1, max_tokens = 16384;
  std::string color = "auto";
};

bool has_color(const std::string& choice) {
  if (choice != "auto") return choice == "always";
  const char* no_color = std::getenv("NO_COLOR");  // no-color.org
  const char* terminal = std::getenv("TERM");
  return isatty(STDOUT_FILENO) != 0 && (no_color == nullptr || *no_color == '\0') &&
         (terminal == nullptr || std::string_view(terminal) != "dumb");
}

Tokenizer load_tokenizer(const Options& options, const TokenFileReader& file) {
  const std::string& sha256 = file.tokenizer_sha256();
  if (options.tokenizer.empty()) {
    throw CLI::ValidationError("--tokenizer",
                               "is missing; a token file holds ids only, so give the folder with its "
                               "tokenizer.json" +
                                   (sha256.empty() ? "" : ", that of SHA-256 " + sha256));
  }
  Tokenizer tokenizer = Tokenizer::load(options.tokenizer);
  if (!sha256.empty() && tokenizer.sha256() != sha256) {
    std::cerr << "warning: " << options.tokenizer.string() << " has SHA-256 " << tokenizer.sha256() << ", but "
              << file.path().string() << " was made with a tokenizer of " << sha256 << ": the text may be wrong\n";
  }
  return tokenizer;
}

/// What is wrong is told with the record's place.
std::vector<RenderedSample> render(const Sample& sample, const Harmony& harmony, const std::string& place) {
  try {
    if (const auto* conversation = std::get_if<Conversation>(&sample)) return harmony.render(*conversation);
    if (const auto* text = std::get_if<HarmonyText>(&sample)) return harmony.render_harmony_text(text->text);
    return {harmony.render_text(std::get<std::string>(sample))};
  } catch (const DataError& error) {
    throw DataError(place + ": " + error.what());
  }
}

std::vector<PreviewSample> read_samples(const Options& options, const TokenFileReader& file) {
  const std::string path = file.path().string();
  const std::int64_t all = file.num_samples();
  if (all == 0) throw DataError(path + ": holds no sample; prepare the file anew");
  if (options.sample >= all) {
    throw DataError(path + ": has no sample " + std::to_string(options.sample) + "; its " + std::to_string(all) +
                    " are counted from 0, so give --sample 0 to " + std::to_string(all - 1));
  }
  std::vector<PreviewSample> samples;
  const auto offsets = file.sample_offsets();
  const std::int64_t end = std::min(all, options.sample + std::min(all, options.count));
  for (std::int64_t s = options.sample; s < end; ++s) {
    PreviewSample sample;
    sample.title = "sample " + std::to_string(s) + " of " + std::to_string(all);
    if (const std::string source = file.sample_source(s); source != "sample " + std::to_string(s)) {
      sample.title += ", " + source;
    }
    const std::int64_t begin = offsets[static_cast<std::size_t>(s)];
    sample.length = offsets[static_cast<std::size_t>(s) + 1] - begin;
    const auto shown = options.max_tokens > 0 ? std::min(sample.length, options.max_tokens) : sample.length;
    sample.tokens.resize(static_cast<std::size_t>(shown));
    sample.loss_weights.resize(sample.tokens.size());
    file.read_tokens(begin, sample.tokens);
    file.read_loss_weights(begin, sample.loss_weights);
    samples.push_back(std::move(sample));
  }
  return samples;
}

void cut(PreviewSample& sample, std::int64_t max_tokens) {
  sample.length = static_cast<std::int64_t>(sample.tokens.size());
  if (max_tokens == 0 || sample.length <= max_tokens) return;
  sample.tokens.resize(static_cast<std::size_t>(max_tokens));
  sample.loss_weights.resize(sample.tokens.size());
}

/// Data that are not prepared yet, rendered as `prepare` does, up to the last sample asked for.
std::vector<PreviewSample> render_samples(const Options& options, const Harmony& harmony) {
  constexpr std::size_t kRecords = 64, kBytes = 1 << 20;
  RecordReader reader({options.file});
  SampleParser parser(options.samples.format());
  std::vector<PreviewSample> samples;
  std::int64_t number = 0;
  for (;;) {
    const std::vector<Record> records = reader.next_block(kRecords, kBytes);
    if (records.empty()) break;
    parser.detect(records);
    for (const Record& record : records) {
      for (RenderedSample& rendered : render(parser.parse(record), harmony, record.place())) {
        if (number++ < options.sample) continue;
        PreviewSample sample{"sample " + std::to_string(number - 1) + ", " + record.place(), std::move(rendered.tokens),
                             std::move(rendered.loss_weights)};
        cut(sample, options.max_tokens);
        samples.push_back(std::move(sample));
        if (static_cast<std::int64_t>(samples.size()) == options.count) return samples;
      }
    }
  }
  if (samples.empty()) {
    throw DataError(options.file.string() + ": has no sample " + std::to_string(options.sample) + ", only " +
                    std::to_string(number) + ", counted from 0");
  }
  return samples;
}

/// HDF5 begins so; what is called .h5 is meant to be a token file whatever it begins with.
bool is_token_file(const std::filesystem::path& path) {
  if (path.extension() == ".h5") return true;
  if (!std::filesystem::is_regular_file(path)) return false;
  char begin[8] = {};
  std::ifstream(path, std::ios::binary).read(begin, sizeof begin);
  return std::string_view(begin, sizeof begin) == std::string_view("\x89HDF\r\n\x1a\n", sizeof begin);
}

/// With the tokenizer that they are in.
std::pair<Tokenizer, std::vector<PreviewSample>> samples_of(const Options& options) {
  if (is_token_file(options.file)) {
    if (options.samples.are_given()) {
      throw CLI::ValidationError("FILE",
                                 "is a token file, so it is rendered already: options of rendering are for data");
    }
    const TokenFileReader file(options.file);
    Tokenizer tokenizer = load_tokenizer(options, file);
    return {std::move(tokenizer), read_samples(options, file)};
  }
  if (options.tokenizer.empty()) {
    throw CLI::ValidationError("--tokenizer", "is missing; give the base model's folder, which has a tokenizer.json");
  }
  const Harmony harmony(Tokenizer::load(options.tokenizer), options.samples.harmony());
  return {harmony.tokenizer(), render_samples(options, harmony)};
}

void run(const Options& options) {
  std::optional<OutputFile> page_file;
  if (!options.html.empty()) page_file.emplace(options.html, OutputFile::Replaces::kHtml);
  const auto [tokenizer, samples] = samples_of(options);
  if (options.html.empty()) {
    write_preview_text(std::cout, samples, tokenizer, has_color(options.color));
    return;
  }
  std::ostringstream page;
  write_preview_page(page, "Preview of " + options.file.filename().string(), samples, tokenizer);
  replace_text_file(options.html, std::move(page).str());
  std::cout << options.html.string() << ": " << samples.size() << (samples.size() == 1 ? " sample\n" : " samples\n");
}

}  // namespace

void register_preview(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("preview", "Show samples: the text as it is rendered, and what of it is learned");
  command->add_option("FILE", options->file, "Token file, or data as prepare takes them")->required();
  command->add_option("--tokenizer", options->tokenizer, "Directory with tokenizer.json: the one of prepare")
      ->type_name("DIR");
  command->add_option("--sample", options->sample, "The first sample to show, counted from 0")
      ->check(whole_number_from(0))
      ->capture_default_str();
  command->add_option("--count", options->count, "How many samples")
      ->check(whole_number_from(1))
      ->capture_default_str();
  command->add_option("--max-tokens", options->max_tokens, "Tokens shown of a sample; 0: all")
      ->check(whole_number_from(0))
      ->capture_default_str();
  command->add_option("--html", options->html, "Write a page for a browser instead of text; a page there is replaced")
      ->type_name("OUT.html");
  command->add_option("--color", options->color, "Colours: auto is for terminals")
      ->check(CLI::IsMember({"auto", "always", "never"}))
      ->capture_default_str();
  options->samples.add_to(*command);
  command->callback([options] { run(*options); });
}

}  // namespace ossature
