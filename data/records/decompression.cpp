#include "data/records/decompression.h"

#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <vector>

namespace ossature {
namespace {

constexpr std::size_t kInputBytes = 256 << 10;
constexpr int kMaxWindowLog = 27;  // 128 MiB: what the zstd tool takes without --long

class Gunzip {
 public:
  explicit Gunzip(ByteStream compressed) : compressed_(std::move(compressed)), input_(kInputBytes) {
    constexpr int kGzipOnly = 15 + 16;
    if (inflateInit2(&state_, kGzipOnly) != Z_OK) throw std::bad_alloc();
  }
  ~Gunzip() { inflateEnd(&state_); }
  Gunzip(const Gunzip&) = delete;
  Gunzip& operator=(const Gunzip&) = delete;

  std::size_t read(std::span<char> out) {
    const auto size = std::min<std::size_t>(out.size(), std::numeric_limits<uInt>::max());
    state_.next_out = reinterpret_cast<Bytef*>(out.data());
    state_.avail_out = static_cast<uInt>(size);
    while (state_.avail_out == size) {
      if (state_.avail_in == 0 && !refill()) {
        if (in_member_) throw DataError("its gzip data end too early: the file was cut short");
        return 0;
      }
      if (!in_member_ && any_member_) inflateReset(&state_);
      in_member_ = true;
      const int code = inflate(&state_, Z_NO_FLUSH);
      if (code == Z_MEM_ERROR) throw std::bad_alloc();
      if (code == Z_STREAM_END) {
        in_member_ = false;
        any_member_ = true;
      } else if (code != Z_OK && code != Z_BUF_ERROR) {
        const std::string reason = state_.msg != nullptr ? state_.msg : "it needs a dictionary";
        if (any_member_ && state_.total_in <= 2) throw DataError("something that is not gzip follows its gzip data");
        throw DataError("its gzip data are damaged: " + reason);
      }
    }
    return size - state_.avail_out;
  }

 private:
  bool refill() {
    const std::size_t size = compressed_(input_);
    state_.next_in = reinterpret_cast<Bytef*>(input_.data());
    state_.avail_in = static_cast<uInt>(size);
    return size > 0;
  }

  ByteStream compressed_;
  std::vector<char> input_;
  z_stream state_{};
  bool in_member_ = false;
  bool any_member_ = false;  // one was read whole
};

class Unzstd {
 public:
  explicit Unzstd(ByteStream compressed)
      : compressed_(std::move(compressed)), input_(kInputBytes), state_(ZSTD_createDCtx(), &ZSTD_freeDCtx) {
    if (!state_) throw std::bad_alloc();
    ZSTD_DCtx_setParameter(state_.get(), ZSTD_d_windowLogMax, kMaxWindowLog);
  }

  std::size_t read(std::span<char> out) {
    ZSTD_outBuffer output{out.data(), out.size(), 0};
    while (output.pos == 0) {
      // A call without input may still have output left from the one before.
      if (given_.pos == given_.size && !refill() && !in_frame_) return 0;
      const std::size_t before = given_.pos;
      const std::size_t hint = ZSTD_decompressStream(state_.get(), &output, &given_);
      if (ZSTD_isError(hint)) fail(hint);
      in_frame_ = hint != 0;
      if (in_frame_ && output.pos == 0 && given_.pos == before && given_.size == 0) {
        throw DataError("its zstd data end too early: the file was cut short");
      }
    }
    return output.pos;
  }

 private:
  bool refill() {
    given_ = {input_.data(), compressed_(input_), 0};
    return given_.size > 0;
  }
  [[noreturn]] static void fail(std::size_t code) {
    switch (ZSTD_getErrorCode(code)) {
      case ZSTD_error_frameParameter_windowTooLarge:
        throw DataError("its zstd data need a window of more than 128 MiB; compress it without --long or --ultra");
      case ZSTD_error_memory_allocation:
        throw std::bad_alloc();
      case ZSTD_error_prefix_unknown:
        throw DataError("something that is not zstd follows its zstd data");
      default:
        throw DataError(std::string("its zstd data are damaged: ") + ZSTD_getErrorName(code));
    }
  }

  ByteStream compressed_;
  std::vector<char> input_;
  std::unique_ptr<ZSTD_DCtx, std::size_t (*)(ZSTD_DCtx*)> state_;
  ZSTD_inBuffer given_{};
  bool in_frame_ = false;
};

}  // namespace

ByteStream gunzip(ByteStream compressed) {
  return [state = std::make_shared<Gunzip>(std::move(compressed))](std::span<char> out) { return state->read(out); };
}

ByteStream unzstd(ByteStream compressed) {
  return [state = std::make_shared<Unzstd>(std::move(compressed))](std::span<char> out) { return state->read(out); };
}

}  // namespace ossature
