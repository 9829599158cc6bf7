// llama.cpp as a judge: llama_logprobs MODEL.gguf [ADAPTER.gguf] < ROWS. A row is a line of token ids; for each, a line
// of natural log p(token | the row so far), "nan" for the first. Everything is float32 that llama.cpp lets be: no flash
// attention, the key-value cache in float32.
#include <cmath>
#include <cstdio>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "llama.h"

namespace {

double log_probability(const float* logits, int size, llama_token token) {
  double largest = -INFINITY, sum = 0;
  for (int i = 0; i < size; ++i) largest = std::fmax(largest, logits[i]);
  for (int i = 0; i < size; ++i) sum += std::exp(logits[i] - largest);
  return logits[token] - largest - std::log(sum);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 && argc != 3) return 2;
  llama_log_set(
      [](ggml_log_level level, const char* text, void*) {
        if (level >= GGML_LOG_LEVEL_WARN) std::fputs(text, stderr);
      },
      nullptr);
  llama_backend_init();
  llama_model* model = llama_model_load_from_file(argv[1], llama_model_default_params());
  if (model == nullptr) return 1;
  std::vector<std::vector<llama_token>> rows;
  std::size_t longest = 1;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream numbers(line);
    rows.emplace_back();
    for (llama_token token; numbers >> token;) rows.back().push_back(token);
    longest = std::max(longest, rows.back().size());
  }
  llama_context_params params = llama_context_default_params();
  params.n_ctx = params.n_batch = params.n_ubatch = static_cast<uint32_t>(longest);
  params.n_threads = params.n_threads_batch = 2;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  params.type_k = params.type_v = GGML_TYPE_F32;
  params.swa_full = true;
  llama_context* context = llama_init_from_model(model, params);
  if (context == nullptr) return 1;
  if (argc == 3) {
    llama_adapter_lora* adapter = llama_adapter_lora_init(model, argv[2]);
    float scale = 1.0F;
    if (adapter == nullptr || llama_set_adapters_lora(context, &adapter, 1, &scale) != 0) return 1;
  }
  const int vocab_size = llama_vocab_n_tokens(llama_model_get_vocab(model));
  for (const auto& row : rows) {
    llama_memory_clear(llama_get_memory(context), true);
    llama_batch batch = llama_batch_init(static_cast<int32_t>(row.size()), 0, 1);
    for (std::size_t i = 0; i < row.size(); ++i) {
      const auto n = batch.n_tokens++;
      batch.token[n] = row[i];
      batch.pos[n] = n;
      batch.n_seq_id[n] = 1;
      batch.seq_id[n][0] = 0;
      batch.logits[n] = 1;
    }
    if (llama_decode(context, batch) != 0) return 1;
    std::printf("nan");
    for (std::size_t i = 1; i < row.size(); ++i)
      std::printf(" %.9g",
                  log_probability(llama_get_logits_ith(context, static_cast<int32_t>(i) - 1), vocab_size, row[i]));
    std::printf("\n");
    llama_batch_free(batch);
  }
  llama_free(context);
  llama_model_free(model);
}
