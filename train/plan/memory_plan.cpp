#include "train/plan/memory_plan.h"

#include <algorithm>
#include <fstream>
#include <iomanip>
#include <limits>
#include <sstream>

#include "model/kernels/bf16_tiles.h"
#include "model/network/head.h"
#include "train/optimizer/optimizer.h"

namespace ossature {
namespace {

/// LibTorch's and our own code, half of it, and data, pools of memory, the loader: measured on the embedded model and
/// on gpt-oss-20b's shape. What LibTorch compiles for products of bfloat16, where the processor has them, is apart.
constexpr std::int64_t kProgramBytes = 135'000'000, kCompiledBytes = 55'000'000;
/// What a chat's beginning takes beside the text of a prompt: some 60, of gpt-oss's tokenizer and of the embedded
/// model's.
constexpr std::int64_t kHarmonyTokens = 64;
/// Layers that are held while weights are read as they are used: the present one and the next.
constexpr std::int64_t kPagedLayers = 2;

/// What one token costs in a layer. Counted tensor by tensor as the layer's functions save them.
struct TokenBytes {
  std::int64_t input, kept, working;
};

TokenBytes token_bytes(const Recipe& recipe, const ModelConfig& model) {
  const std::int64_t element = recipe.dtype == ComputeDtype::kBFloat16 ? 2 : 4;
  const auto hidden = model.hidden_size, inner = model.intermediate_size, per_token = model.num_experts_per_tok;
  const auto query = model.query_size(), key_value = model.key_value_size();
  TokenBytes bytes{};
  bytes.input = 4 * hidden;
  if (recipe.train.mode == TrainMode::kFull) {
    // Every operation saves its float32 input or output.
    bytes.kept = 4 * (24 * hidden + 6 * query + per_token * (4 * inner + 3 * hidden));
    return bytes;
  }
  const auto attention = element * (hidden + 2 * query + 2 * key_value) + 4 * model.num_attention_heads;
  const auto experts = 4 * hidden + element * (hidden + per_token * 2 * inner);
  const auto assignments = per_token * (48 + 2 * element * recipe.lora.r);
  bytes.kept = attention + experts + assignments;
  // Packed activations and gradients of all assignments, and float32 sums.
  bytes.working = element * per_token * (2 * hidden + inner) + 24 * hidden + 4 * query;
  return bytes;
}

/// What the longest of the sample replies holds at once: keys and values of every layer, for whose growth there is room
/// (KeyValueCache), and the activations of the prompt in one layer, or a layer's keys and values in float32. The text
/// is counted as a token a byte, more than which it cannot be.
std::int64_t reply_bytes(const Recipe& recipe, const ModelConfig& model) {
  std::size_t longest = 0;
  for (const std::string& prompt : recipe.evaluation.sample_prompts) longest = std::max(longest, prompt.size());
  if (longest == 0) return 0;
  const auto prompt = std::min(static_cast<std::int64_t>(longest) + kHarmonyTokens, model.max_position_embeddings);
  const auto tokens = std::min(prompt + recipe.evaluation.sample_tokens, model.max_position_embeddings);
  const std::int64_t element = recipe.dtype == ComputeDtype::kBFloat16 ? 2 : 4;
  std::int64_t kept = 0;
  for (const bool is_sliding : model.sliding_layers)
    kept += 2 * (is_sliding ? std::max(prompt, std::min(tokens, model.sliding_window + 1)) : tokens) + 64;
  const TokenBytes token = token_bytes(recipe, model);
  const auto past = 8 * model.key_value_size() * tokens;
  return 2 * element * model.key_value_size() * kept +
         std::max(prompt * (2 * token.input + token.kept + token.working), past) + 4 * model.vocab_size;
}

std::int64_t layer_bytes(const Checkpoint& checkpoint) {
  std::int64_t sum = 0;
  for (const MappedPart& part : checkpoint.layer_parts(0)) sum += static_cast<std::int64_t>(part.bytes.size());
  return sum;
}

/// Bytes of `field` of a file of "Name: value kB" lines; no more than can be had if there is none.
std::int64_t kilobytes(const char* path, const std::string& field) {
  std::ifstream file(path);
  std::string name;
  std::int64_t value = 0;
  while (file >> name) {
    if (name == field && file >> value) return value * 1024;
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return std::numeric_limits<std::int64_t>::max();
}

std::string gigabytes(std::int64_t bytes) {
  std::ostringstream text;
  text << std::fixed << std::setprecision(1) << static_cast<double>(bytes) / 1e9 << " GB";
  return text.str();
}

}  // namespace

MemoryNeeds memory_needs(const Recipe& recipe, const Checkpoint& checkpoint, std::int64_t num_trained,
                         const Stage* stage) {
  const ModelConfig& model = checkpoint.config();
  const auto tokens = recipe.data.sequence_length * recipe.train.micro_batch_size;
  const TokenBytes token = token_bytes(recipe, model);
  MemoryNeeds needs;
  needs.program = kProgramBytes + (tiles::has_bf16_products() ? kCompiledBytes : 0);
  const auto embedding = 2 * model.vocab_size * model.hidden_size;  // and as much the head
  needs.layer_weights = layer_bytes(checkpoint);
  needs.num_layers = model.num_hidden_layers;
  needs.weights = checkpoint.stored_bytes() - embedding;
  if (stage != nullptr) {
    needs.num_layers = stage->end_layer - stage->first_layer;
    needs.weights = needs.num_layers * needs.layer_weights + (stage->is_last ? embedding : 0);
  }
  if (stage == nullptr || stage->is_first) needs.weights += std::min(embedding, kMappedEmbeddingBytes);
  const TrainedBytes trained = trained_bytes(num_trained, recipe.train.optimizer_state);
  needs.trained = trained.total() + (recipe.evaluation.keeps_best() ? trained.values : 0);  // the best values
  if (recipe.train.mode == TrainMode::kFull) needs.weights = 0;  // copied into the trained parameters
  needs.input = tokens * token.input;
  needs.kept = tokens * token.kept;
  needs.working = tokens * token.working;
  if (stage == nullptr || stage->is_last)
    needs.head = head_bytes(model, tokens, recipe.dtype == ComputeDtype::kBFloat16);
  needs.replies = reply_bytes(recipe, model);
  return needs;
}

std::int64_t MemoryPlan::at_work() const {
  // A layer that runs again keeps its activations for that long.
  return std::max(needs.head, needs.working + (kept_layers < needs.num_layers ? needs.kept : 0));
}

std::int64_t MemoryPlan::of_a_step() const {
  return micro_batches_together * (needs.num_layers * needs.input + kept_layers * needs.kept) + at_work();
}

std::int64_t MemoryPlan::activations() const {
  return std::max(of_a_step(), needs.replies);
}

std::int64_t MemoryPlan::replies_beyond_step() const {
  return activations() - of_a_step();
}

std::int64_t MemoryPlan::resident_weights() const {
  // Embedding and head stay mapped.
  return pages ? kPagedLayers * needs.layer_weights + needs.weights - needs.num_layers * needs.layer_weights
               : needs.weights;
}

std::int64_t MemoryPlan::resident() const {
  return needs.program + needs.trained + activations() + resident_weights();
}

std::string MemoryPlan::describe() const {
  std::string text = gigabytes(resident()) + " of " + gigabytes(limit) + ": weights " + gigabytes(resident_weights()) +
                     (pages ? " at a time" : "") + ", trained " + gigabytes(needs.trained) + ", activations " +
                     gigabytes(activations());
  const auto again = needs.num_layers - kept_layers;
  text += again == 0 ? "; no layer is computed again"
                     : "; " + std::to_string(again) + " of " + std::to_string(needs.num_layers) +
                           " layers are computed again in the backward pass";
  if (pages) {
    text += "; " + gigabytes(needs.weights) + " of weights are read as they are used, once for " +
            std::to_string(micro_batches_together) + (micro_batches_together == 1 ? " micro-batch" : " micro-batches");
  }
  return text;
}

MemoryPlan plan_memory(const Recipe& recipe, const MemoryNeeds& needs, std::int64_t limit, std::int64_t pipelined,
                       std::int64_t most_together) {
  MemoryPlan plan;
  plan.needs = needs;
  plan.limit = limit;
  plan.kept_layers = recipe.train.recompute == Recompute::kOff ? needs.num_layers : 0;
  plan.pages = pipelined == 0 && plan.resident() > limit && needs.weights > 0;
  if (plan.pages || pipelined > 0) {
    const auto one_more = needs.num_layers * needs.input + plan.kept_layers * needs.kept;
    const auto room = std::max<std::int64_t>(0, limit - plan.resident());
    const auto most = pipelined > 0 ? pipelined : recipe.train.gradient_accumulation_steps;
    plan.micro_batches_together = std::min({most, most_together, 1 + room / one_more});
  }
  if (recipe.train.recompute == Recompute::kAuto) {
    plan.kept_layers = needs.num_layers;
    while (plan.kept_layers > 0 && plan.resident() > limit) --plan.kept_layers;
  }
  return plan;
}

std::int64_t free_memory() {
  std::int64_t available = kilobytes("/proc/meminfo", "MemAvailable:");
  std::int64_t group = 0;
  if (std::ifstream("/sys/fs/cgroup/memory.max") >> group) available = std::min(available, group);
  return available;
}

std::int64_t cached_layers(const MemoryPlan& plan, std::int64_t free, std::int64_t local_ranks) {
  const std::int64_t room = free / 10 * 9 - local_ranks * plan.resident();
  return std::clamp<std::int64_t>(room / plan.needs.layer_weights, 0, plan.needs.num_layers);
}

void fit_into_memory(Transformer& transformer, const Checkpoint& checkpoint, std::int64_t free) {
  if (checkpoint.stored_bytes() <= free / 10 * 9) return;
  const auto layer = layer_bytes(checkpoint);
  // A quarter is for activations and for others.
  transformer.read_as_used(std::max<std::int64_t>(0, free / 4 * 3 / layer - kPagedLayers));
}

std::int64_t memory_limit(const Recipe& recipe) {
  if (recipe.train.memory_limit) return static_cast<std::int64_t>(*recipe.train.memory_limit * 1073741824.0);
  return free_memory() / 10 * 9;
}

}  // namespace ossature
