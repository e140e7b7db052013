// What works only from resume() to pause().
#pragma once

namespace nwc {

/// Resumes it, and pauses it at the end of the scope. Null: there is nothing to run.
template <typename Worker>
class Running {
 public:
  explicit Running(Worker* worker) : worker_(worker) {
    if (worker_ != nullptr) worker_->resume();
  }
  ~Running() {
    if (worker_ != nullptr) worker_->pause();
  }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;

 private:
  Worker* const worker_;
};

}  // namespace nwc
