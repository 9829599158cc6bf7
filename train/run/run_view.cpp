#include "train/run/run_view.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <iostream>
#include <vector>

#include "train/text/number_text.h"
#include "train/text/progress.h"

namespace ossature {
namespace {

std::size_t terminal_width() {
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 79;
  return size.ws_col - 1u;  // a full line would wrap
}

}  // namespace

std::string live_line(const StepMetrics& metrics, const RunOutlook& outlook, std::size_t width) {
  struct Part {
    std::string text;
    int dropped;  // the higher, the earlier
  };
  const double done =
      outlook.total_steps > 0 ? static_cast<double>(metrics.step) / static_cast<double>(outlook.total_steps) : 0.0;
  const auto share =
      outlook.share_of_roofline ? number_text(" (%.0f %%)", 100 * *outlook.share_of_roofline) : std::string();
  const std::vector<Part> parts{
      {progress_bar(done) + "  ", 5},
      {std::to_string(metrics.step) + "/" + std::to_string(outlook.total_steps), 0},
      {number_text("  loss %.4f", outlook.smoothed_loss), 0},
      {number_text("  lr %.2e", metrics.learning_rate), 4},
      {number_text("  %.0f tokens/s", metrics.tokens_per_second()), 1},
      {share, 2},
      {number_text("  %.1f GB", static_cast<double>(metrics.peak_rss_bytes) / 1e9), 3},
      {"  " + duration_text(outlook.seconds_left) + " left", 0},
  };
  std::string line;
  for (int kept = 5; kept >= 0; --kept) {
    line.clear();
    for (const Part& part : parts) {
      if (part.dropped <= kept) line += part.text;
    }
    if (line.size() <= width) return line;
  }
  return line.substr(0, width);
}

RunView::RunView(std::int64_t total_steps, double gflop_per_token, double gflop_per_second)
    : total_steps_(total_steps),
      gflop_per_token_(gflop_per_token),
      gflop_per_second_(gflop_per_second),
      is_live_(is_live()) {}

bool RunView::is_live() {
  return isatty(STDERR_FILENO) != 0;
}

void RunView::show(const StepMetrics& metrics, double seconds_left) {
  if (!is_live_) {
    std::cerr << progress_line(metrics, total_steps_, seconds_left) << std::endl;
    return;
  }
  loss_.add(metrics.loss);
  RunOutlook outlook{total_steps_, loss_.value(), seconds_left, std::nullopt};
  if (gflop_per_token_ > 0 && gflop_per_second_ > 0)
    outlook.share_of_roofline = gflop_per_token_ * metrics.tokens_per_second() / gflop_per_second_;
  line_ = live_line(metrics, outlook, terminal_width());
  std::cerr << "\r" << line_ << "\x1b[K" << std::flush;
}

void RunView::say(const std::string& line) {
  if (!line_.empty()) std::cerr << "\r\x1b[K";
  std::cerr << line << "\n" << line_ << std::flush;
}

void RunView::finish() {
  if (!line_.empty()) std::cerr << std::endl;
  line_.clear();
}

}  // namespace ossature
