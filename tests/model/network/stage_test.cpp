// The stages of a pipeline together give the bits of one model, here as threads that are linked by queues.
#include "model/network/stage.h"

#include <gtest/gtest.h>

#include <array>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include <ATen/ATen.h>

#include "model/adapter/loaded_model.h"
#include "model/network/backpropagation.h"
#include "tests/support/small_lora.h"

namespace ossature {
namespace {

using testing::small;

class Queue {
 public:
  void put(const at::Tensor& tensor) {
    {
      const std::lock_guard lock(mutex_);
      tensors_.push_back(tensor.clone());
    }
    has_some_.notify_one();
  }
  at::Tensor take() {
    std::unique_lock lock(mutex_);
    has_some_.wait(lock, [&] { return !tensors_.empty(); });
    at::Tensor tensor = tensors_.front();
    tensors_.pop_front();
    return tensor;
  }

 private:
  std::mutex mutex_;
  std::condition_variable has_some_;
  std::deque<at::Tensor> tensors_;
};

/// between[i] is what stage i sends to stage i + 1, and back.
struct Queues {
  Queue up, down;
};

class QueueLink final : public StageLink {
 public:
  QueueLink(std::vector<Queues>& between, std::size_t stage) : between_(between), stage_(stage) {}
  void send(Neighbour to, const at::Tensor& tensor) override {
    (to == Neighbour::kAfter ? between_[stage_].up : between_[stage_ - 1].down).put(tensor);
  }
  void begin_receive(Neighbour from, const at::Tensor& tensor) override {
    coming_[static_cast<std::size_t>(from)].push_back(tensor);
  }
  void wait_received(Neighbour from) override {
    auto& coming = coming_[static_cast<std::size_t>(from)];
    coming.front().copy_((from == Neighbour::kBefore ? between_[stage_ - 1].up : between_[stage_].down).take());
    coming.pop_front();
  }

 private:
  std::vector<Queues>& between_;
  std::size_t stage_;
  std::array<std::deque<at::Tensor>, 2> coming_;
};

struct Batch {
  std::vector<std::int32_t> tokens;
  std::vector<float> weights;
  std::vector<std::int64_t> offsets;

  Batch(std::vector<std::int64_t> sample_offsets, std::int32_t seed) : offsets(std::move(sample_offsets)) {
    for (std::int32_t t = 0; t < offsets.back(); ++t) tokens.push_back((t * t * 7 + t * seed + 3) % 128);
    weights.assign(tokens.size(), 1.0f);
  }
};

/// The small golden with an adapter on the layers from `lowest` up.
struct Adapted {
  Transformer transformer{Checkpoint(small("hf")), at::kFloat};
  Lora lora;

  explicit Adapted(std::int64_t lowest) : lora(config_of(lowest), transformer.config(), 1) {
    for (const LoraTarget& target : lora.targets()) {
      at::manual_seed(std::hash<std::string>()(target.name));
      lora.b(target).detach().normal_(0.0, 0.2);
    }
    lora.attach(transformer);
  }
  static LoraConfig config_of(std::int64_t lowest) {
    LoraConfig config = testing::small_lora({"q_proj", "k_proj", "v_proj", "o_proj"}, {});
    config.lora_dropout = 0.1;
    for (auto layer = lowest; layer < testing::small_config().num_hidden_layers; ++layer) {
      config.layers_to_transform.push_back(layer);
      for (const char* name : {"gate_up_proj", "down_proj"})
        config.target_parameters.push_back(std::to_string(layer) + ".mlp.experts." + name);
    }
    return config;
  }
};

TEST(Stage, EachHasALayerAndTogetherTheyHaveAllInOrder) {
  for (const std::int64_t layers : {3, 24, 36}) {
    ModelConfig config = testing::small_config();
    config.num_hidden_layers = layers;
    for (std::int64_t count = 1; count <= layers; ++count) {
      std::int64_t end = 0;
      for (std::int64_t i = 0; i < count; ++i) {
        const Stage stage = stage_of(config, count, i);
        EXPECT_EQ(stage.first_layer, end);
        EXPECT_GT(stage.end_layer, stage.first_layer);
        EXPECT_EQ(stage.is_first, i == 0);
        EXPECT_EQ(stage.is_last, i + 1 == count);
        end = stage.end_layer;
      }
      EXPECT_EQ(end, layers);
    }
  }
}

TEST(Stage, TheLastOfGptOss120bHasFewerLayersForItsHead) {
  ModelConfig config = testing::small_config();
  config.num_hidden_layers = 36;
  config.hidden_size = config.intermediate_size = 2880;
  config.num_attention_heads = 64;
  config.num_key_value_heads = 8;
  config.head_dim = 64;
  config.num_experts_per_tok = 4;
  config.vocab_size = 201088;
  // A layer uses 126.6 million weights a token and the head 579.1: 4.6 layers, 10.1 a stage.
  std::vector<std::int64_t> layers;
  for (std::int64_t i = 0; i < 4; ++i) {
    const Stage stage = stage_of(config, 4, i);
    layers.push_back(stage.end_layer - stage.first_layer);
  }
  EXPECT_EQ(layers, (std::vector<std::int64_t>{10, 10, 10, 6}));
}

TEST(Stage, LossAndGradientsAreThoseOfOneModelBitForBit) {
  const Batch batches[] = {{{0, 7, 20}, 29}, {{0, 17}, 5}, {{0, 11, 30, 31}, 17}};
  std::vector<TokenRows> rows;
  for (const Batch& batch : batches)
    rows.push_back({batch.tokens, batch.weights, batch.offsets, 1000 + batch.tokens.size()});
  for (const std::int64_t lowest : {0, 1, 2}) {  // the layer below which nothing trains
    const Adapted one(lowest);
    std::vector<std::int64_t> order;
    BackpropagationOptions options;
    options.on_layer_done = [&](std::int64_t n) { order.push_back(n); };
    const LossSum expected = backpropagate(one.transformer, rows, options);
    ASSERT_EQ(static_cast<std::int64_t>(order.size()), 3 - lowest);
    for (const std::int64_t count : {2, 3}) {
      for (const std::int64_t kept : {0, 1, 3}) {
        std::vector<Queues> between(static_cast<std::size_t>(count));
        std::vector<std::unique_ptr<Adapted>> models;
        std::vector<LossSum> sums(static_cast<std::size_t>(count)), evaluated(sums.size());
        std::vector<std::thread> threads;
        for (std::int64_t i = 0; i < count; ++i) models.push_back(std::make_unique<Adapted>(lowest));
        for (std::int64_t i = 0; i < count; ++i) {
          threads.emplace_back([&, i] {
            const auto at = static_cast<std::size_t>(i);
            const Transformer& transformer = models[at]->transformer;
            QueueLink link(between, at);
            Stage stage = stage_of(transformer.config(), count, i);
            stage.link = &link;
            BackpropagationOptions own;
            own.stage = &stage;
            own.kept_layers = kept;
            sums[at] = backpropagate(transformer, rows, own);
            for (const TokenRows& each : rows) {
              const LossSum part = evaluate(transformer, each, false, &stage);
              evaluated[at].loss += part.loss;
              evaluated[at].num_learned += part.num_learned;
            }
          });
        }
        for (std::thread& thread : threads) thread.join();
        at::Tensor gradients = at::zeros_like(one.lora.parameters().gradients());
        for (const auto& model : models) gradients += model->lora.parameters().gradients();
        EXPECT_TRUE(gradients.equal(one.lora.parameters().gradients())) << count << " stages, " << kept << " kept";
        EXPECT_EQ(sums.back().loss, expected.loss);
        EXPECT_EQ(sums.back().weight, expected.weight);
        EXPECT_EQ(sums.back().num_learned, expected.num_learned);
        EXPECT_EQ(evaluated.back().num_learned, expected.num_learned);
        for (std::int64_t i = 0; i + 1 < count; ++i) {
          EXPECT_EQ(sums[static_cast<std::size_t>(i)].weight, 0.0);
          EXPECT_EQ(evaluated[static_cast<std::size_t>(i)].num_learned, 0);
        }
      }
    }
  }
}

}  // namespace
}  // namespace ossature
