#include "train/reports/token_report.h"

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

namespace ossature {
namespace {

double ratio(double part, std::int64_t whole) {
  return whole > 0 ? part / static_cast<double>(whole) : 0.0;
}

/// The next range of lengths: 0, 1, 2 to 3, 4 to 7, ...
std::int64_t next_edge(std::int64_t edge) {
  return edge == 0 ? 1 : 2 * edge;
}

}  // namespace

void add_lengths(const LengthHistogram& lengths, std::int64_t samples, std::int64_t tokens, std::int64_t longest,
                 Inspection& report) {
  report.fields.emplace_back("samples", samples);
  report.fields.emplace_back("tokens", tokens);
  report.fields.emplace_back("longest_sample", longest);
  report.fields.emplace_back("mean_length", ratio(static_cast<double>(tokens), samples));
  report.fields.emplace_back("median_length", std::min(longest, lengths.quantile(0.5)));
  Inspection::Table table{"lengths", {"from", "to", "samples", "share"}, {}, "samples"};
  std::int64_t rest = samples;
  for (std::int64_t from = 0; rest > 0 && from >= 0 && from <= longest; from = next_edge(from)) {
    const std::int64_t count = lengths.count(from, next_edge(from));
    rest -= count;
    if (count == 0 && table.rows.empty()) continue;
    table.rows.push_back({from, next_edge(from) - 1, count, ratio(static_cast<double>(count), samples)});
  }
  report.tables.push_back(std::move(table));
}

void add_learned(const TokenStatistics& statistics, Inspection& report) {
  const SegmentCounts total = statistics.total();
  report.fields.emplace_back("learned_tokens", total.learned);
  report.fields.emplace_back("weight_sum", total.weight);
  report.fields.emplace_back("samples_without_learned_tokens", statistics.samples_without_learned());
  Inspection::Table table{
      "channels", {"channel", "segments", "tokens", "learned_tokens", "learned_share", "mean_weight"}, {}, {}};
  for (std::size_t i = 0; statistics.harmony().is_known() && i < kNumSegmentKinds; ++i) {
    const SegmentCounts& counts = statistics.of(SegmentKind(i));
    if (counts.segments == 0) continue;
    table.rows.push_back({std::string(name_of(SegmentKind(i))), counts.segments, counts.tokens, counts.learned,
                          ratio(static_cast<double>(counts.learned), total.learned),
                          ratio(counts.weight, counts.learned)});
  }
  report.tables.push_back(std::move(table));
}

void add_statistics(const TokenStatistics& statistics, Inspection& report) {
  add_lengths(statistics.lengths(), statistics.samples(), statistics.total().tokens, statistics.longest(), report);
  add_learned(statistics, report);
}

Inspection describe_structure(const TokenFileReader& file) {
  LengthHistogram lengths;
  std::int64_t longest = 0;
  const std::span<const std::int64_t> offsets = file.sample_offsets();
  for (std::size_t i = 1; i < offsets.size(); ++i) {
    lengths.add(offsets[i] - offsets[i - 1]);
    longest = std::max(longest, offsets[i] - offsets[i - 1]);
  }
  Inspection report{"token file", file.path(), {}, {}};
  add_lengths(lengths, file.num_samples(), file.num_tokens(), longest, report);
  const std::string& tokenizer = file.tokenizer_sha256();
  report.fields.emplace_back("vocab_size", file.vocab_size());
  report.fields.emplace_back("tokenizer_sha256", tokenizer.empty() ? "unknown" : tokenizer);
  report.fields.emplace_back("stored_bytes", static_cast<std::int64_t>(std::filesystem::file_size(file.path())));
  return report;
}

void add_contents(const TokenFileReader& file, const std::filesystem::path& tokenizer, Inspection& report,
                  const std::function<void(std::int64_t)>& progress) {
  HarmonyTokens harmony = HarmonyTokens::o200k(file.vocab_size());
  std::string channels_by = harmony.is_known()
                                ? "ids of o200k_harmony (--tokenizer DIR gives others)"
                                : "unknown: too small for o200k_harmony; give the file's tokenizer with --tokenizer";
  if (!tokenizer.empty()) {
    const Tokenizer loaded = Tokenizer::load(tokenizer);
    if (!file.tokenizer_sha256().empty() && loaded.sha256() != file.tokenizer_sha256()) {
      throw DataError(tokenizer.string() + ": has SHA-256 " + loaded.sha256() + ", but " + file.path().string() +
                      " was made with a tokenizer of " + file.tokenizer_sha256() + "; give that one");
    }
    harmony = HarmonyTokens::of(loaded);
    channels_by = tokenizer.string();
  }
  constexpr std::int64_t kPiece = 1 << 20;  // about so many tokens are held, or a sample if that is longer
  TokenStatistics statistics(std::move(harmony));
  std::vector<std::int32_t> tokens;
  std::vector<float> weights;
  const std::span<const std::int64_t> offsets = file.sample_offsets();
  for (std::size_t first = 0, end = 0; first + 1 < offsets.size(); first = end) {
    end = first + 1;
    while (end + 1 < offsets.size() && offsets[end + 1] - offsets[first] <= kPiece) ++end;
    const std::int64_t begin = offsets[first];
    tokens.resize(static_cast<std::size_t>(offsets[end] - begin));
    weights.resize(tokens.size());
    file.read_tokens(begin, tokens);
    file.read_loss_weights(begin, weights);
    for (std::size_t s = first; s < end; ++s) {
      const auto position = static_cast<std::size_t>(offsets[s] - begin);
      const auto length = static_cast<std::size_t>(offsets[s + 1] - offsets[s]);
      statistics.add(std::span(tokens).subspan(position, length), std::span(weights).subspan(position, length));
    }
    if (progress) progress(offsets[end]);
  }
  add_learned(statistics, report);
  report.fields.emplace_back("channels_by", std::move(channels_by));
}

}  // namespace ossature
