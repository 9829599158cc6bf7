// A network cable in software: joins two network namespaces by a link of a given rate and delay, in both directions. For kernels without netem.
//
//   network_link NAMESPACE_A NAMESPACE_B RATE_BITS_PER_SECOND DELAY_SECONDS
//
// Each namespace (as `ip netns add` makes them) gets an interface `link0`, which the caller then gives an address. A packet leaves when those
// before it have left and its own bits are through, and arrives a delay later. Ends when it is killed; the interfaces go with it.
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

/// What waits for the wire, at most: the queue of a switch's port. Beyond, the interface's own queue holds packets back.
constexpr std::size_t kMostQueued = 2 << 20;

void check(bool holds, const char* what) {
  if (holds) return;
  std::perror(what);
  std::exit(1);
}

int open_interface(const std::string& name_space) {
  const int before = ::open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
  const int space = ::open(("/var/run/netns/" + name_space).c_str(), O_RDONLY | O_CLOEXEC);
  check(space >= 0 && ::setns(space, CLONE_NEWNET) == 0, name_space.c_str());
  const int tun = ::open("/dev/net/tun", O_RDWR | O_CLOEXEC);
  ifreq request{};
  request.ifr_flags = IFF_TUN | IFF_NO_PI;
  std::strcpy(request.ifr_name, "link0");
  check(tun >= 0 && ::ioctl(tun, TUNSETIFF, &request) == 0, "tun");
  ::setns(before, CLONE_NEWNET);
  ::close(space);
  ::close(before);
  return tun;
}

class Direction {
 public:
  Direction(int from, int to, double rate, double delay) : from_(from), to_(to), rate_(rate), delay_(delay) {
    std::thread([this] { read_all(); }).detach();
    std::thread([this] { write_all(); }).detach();
  }

 private:
  struct Packet {
    Clock::time_point arrives;
    std::vector<char> bytes;
  };

  static Clock::duration seconds(double value) {
    return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(value));
  }

  void read_all() {
    std::vector<char> buffer(1 << 17);
    auto free_at = Clock::now();
    while (true) {
      const ssize_t size = ::read(from_, buffer.data(), buffer.size());
      check(size > 0, "read");
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return queued_ <= kMostQueued; });
      free_at = std::max(free_at, Clock::now()) + seconds(8.0 * static_cast<double>(size) / rate_);
      queue_.push_back({free_at + seconds(delay_), {buffer.begin(), buffer.begin() + size}});
      queued_ += static_cast<std::size_t>(size);
      changed_.notify_all();
    }
  }

  void write_all() {
    prctl(PR_SET_TIMERSLACK, 1000UL);
    while (true) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return !queue_.empty(); });
      const Packet packet = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      std::this_thread::sleep_until(packet.arrives);
      if (::write(to_, packet.bytes.data(), packet.bytes.size()) < 0) std::perror("write");
      lock.lock();
      queued_ -= packet.bytes.size();
      changed_.notify_all();
    }
  }

  int from_, to_;
  double rate_, delay_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Packet> queue_;
  std::size_t queued_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fputs("usage: network_link NAMESPACE_A NAMESPACE_B RATE_BITS_PER_SECOND DELAY_SECONDS\n", stderr);
    return 2;
  }
  const int a = open_interface(argv[1]), b = open_interface(argv[2]);
  const double rate = std::atof(argv[3]), delay = std::atof(argv[4]);
  const Direction there(a, b, rate, delay), back(b, a, rate, delay);
  std::puts("linked");
  std::fflush(stdout);
  ::pause();
}
