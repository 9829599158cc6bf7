#include "data/prepare.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <future>
#include <memory>
#include <thread>

#include "data/harmony.h"
#include "data/records.h"
#include "data/token_file.h"

namespace ossature {
namespace {

/// Records handled at once: at most so many, and about so many bytes.
constexpr std::size_t kBlockRecords = 4096;
constexpr std::size_t kBlockBytes = 4 << 20;

RenderedSample render(const Record& record, const Harmony& harmony, const SampleParser& parser) {
  const Sample sample = parser.parse(record);
  try {
    if (const auto* conversation = std::get_if<Conversation>(&sample)) return harmony.render(*conversation).front();
    if (const auto* rendered = std::get_if<HarmonyText>(&sample)) {
      return harmony.render_harmony_text(rendered->text).front();
    }
    return harmony.render_text(std::get<std::string>(sample));
  } catch (const DataError& error) {
    throw DataError(record.place() + ": " + error.what());
  }
}

/// Renders a block on several threads. The first line that fails decides the error, whatever thread met it.
std::vector<RenderedSample> render_block(const std::vector<Record>& block, const Harmony& harmony,
                                         const SampleParser& parser, int num_threads) {
  std::vector<RenderedSample> samples(block.size());
  std::vector<std::exception_ptr> failures(block.size());
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    for (std::size_t i = next++; i < block.size(); i = next++) {
      try {
        samples[i] = render(block[i], harmony, parser);
      } catch (...) {
        failures[i] = std::current_exception();
      }
    }
  };
  std::vector<std::jthread> threads;
  for (int i = 1; i < num_threads; ++i) threads.emplace_back(work);
  work();
  threads.clear();
  for (const auto& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
  return samples;
}

/// A number in [0, 1) from the content of a line alone (FNV-1a), so a sample stays on its side whatever else is in the
/// files.
double share_of(const std::string& text) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  hash ^= hash >> 32;
  return static_cast<double>(hash & 0xffffffffu) / 4294967296.0;
}

void count(const RenderedSample& sample, PrepareCounts& counts) {
  const auto learned =
      std::count_if(sample.loss_weights.begin(), sample.loss_weights.end(), [](float w) { return w > 0.0f; });
  ++counts.samples;
  counts.tokens += static_cast<std::int64_t>(sample.tokens.size());
  counts.learned_tokens += learned;
  counts.longest_sample = std::max(counts.longest_sample, static_cast<std::int64_t>(sample.tokens.size()));
  for (std::size_t i = 0; i < sample.learned_by_channel.size(); ++i) {
    counts.learned_by_channel[i] += sample.learned_by_channel[i];
  }
  if (learned == 0) ++counts.without_learned;
}

/// Writing over what is read would lose it.
void check_outputs(const PrepareOptions& options) {
  const bool has_validation = options.validation > 0.0;
  if (has_validation &&
      std::filesystem::weakly_canonical(options.validation_out) == std::filesystem::weakly_canonical(options.out)) {
    throw DataError(options.out.string() + ": named for both training and validation samples; give two names");
  }
  for (const auto& input : options.inputs) {
    std::error_code ignored;
    if (std::filesystem::equivalent(input, options.out, ignored) ||
        (has_validation && std::filesystem::equivalent(input, options.validation_out, ignored))) {
      throw DataError(input.string() + ": is both read and to be written; give the token file another name");
    }
  }
}

}  // namespace

PrepareSummary prepare(const PrepareOptions& options, const std::function<void(std::int64_t)>& progress) {
  check_outputs(options);
  const Harmony harmony(Tokenizer::load(options.tokenizer), options.date);
  const Tokenizer& tokenizer = harmony.tokenizer();
  const int num_threads =
      options.threads > 0 ? options.threads : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  TokenFileWriter train(options.out, tokenizer.vocab_size(), tokenizer.sha256());
  std::unique_ptr<TokenFileWriter> validation;
  if (options.validation > 0.0) {
    validation = std::make_unique<TokenFileWriter>(options.validation_out, tokenizer.vocab_size(), tokenizer.sha256());
  }
  PrepareSummary summary;
  RecordReader reader(options.inputs);
  SampleParser parser({.format = options.format});
  std::vector<Record> block, next;
  const auto render_next = [&] {
    next = reader.next_block(kBlockRecords, kBlockBytes);
    parser.detect(next);
    return std::async(std::launch::async, [&] { return render_block(next, harmony, parser, num_threads); });
  };
  // One block is rendered while the one before it is written.
  for (auto rendered = render_next();;) {
    const std::vector<RenderedSample> samples = rendered.get();
    block.swap(next);
    if (block.empty()) break;
    rendered = render_next();
    for (std::size_t i = 0; i < samples.size(); ++i) {
      const bool is_validation = validation && share_of(block[i].text) < options.validation;
      (is_validation ? *validation : train).add(samples[i].tokens, samples[i].loss_weights, block[i].place());
      count(samples[i], is_validation ? summary.validation : summary.train);
    }
    if (progress) progress(summary.train.samples + summary.validation.samples);
  }
  if (summary.train.samples == 0) {
    throw DataError("no sample for " + options.out.string() +
                    "; the inputs have no record that is not empty, or all went to validation");
  }
  train.finish();
  if (validation) validation->finish();
  return summary;
}

}  // namespace ossature
