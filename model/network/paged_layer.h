// The weights of a layer in memory that the program holds for them, instead of in the mapping of the checkpoint's
// files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include <c10/core/Storage.h>

#include "model/files/mapped_file.h"
#include "model/network/transformer.h"

namespace ossature {

/// Whole pages, large ones where the system has them.
class PageMemory {
 public:
  /// Throws std::bad_alloc.
  explicit PageMemory(std::size_t size);
  [[nodiscard]] std::span<std::byte> bytes() const { return {memory_.get(), size_}; }

 private:
  struct Free {
    void operator()(std::byte* memory) const;
  };
  std::unique_ptr<std::byte, Free> memory_;
  std::size_t size_;
};

class PagedLayer {
 public:
  /// `parts`: what the files have of the layer (Checkpoint::layer_parts), of which its tensors are views. Those that
  /// are not (copies, on another device) stay as they are. Reads nothing.
  PagedLayer(const Layer& layer, const std::vector<MappedPart>& parts);

  /// That it takes in memory.
  [[nodiscard]] std::size_t size() const { return size_; }

  /// Reads all of it into `memory`, several pieces at once; asks between them whether that is still wanted. False if it
  /// was not. Throws CheckpointError if a file cannot be read. From any thread.
  [[nodiscard]] bool read(std::span<std::byte> memory, ReadWay way, const std::function<bool()>& is_called_off) const;

  /// The layer's tensors are in `memory` from now on, whoever holds them; or in the mapping again. Not while somebody
  /// uses them.
  void point_to(std::span<std::byte> memory);
  void point_back();

  /// Lets go of the mapping's pages.
  void release_mapping() const;

 private:
  /// Pages of a file that hold parts that adjoin.
  struct Pages {
    std::shared_ptr<const MappedFile> file;
    std::uint64_t offset;  // in the file
    std::size_t size;
    std::size_t place;  // in memory
  };
  struct View {
    c10::Storage storage;
    std::size_t place;
    c10::DataPtr mapped;  // while the storage is in memory
  };

  std::vector<Pages> pages_;
  std::vector<View> views_;
  std::size_t size_ = 0;
};

}  // namespace ossature
