// A compression with recovery that was interrupted goes on where it was: the same bytes as in one go, whatever has
// become of the files in between.
#include <algorithm>
#include <functional>
#include <optional>

#include "tests/data/temp_dir.h"
#include "trainer/calib/calibration.h"
#include "trainer/codec/identity_codec.h"
#include "trainer/encode/encoder.h"
#include "trainer/nn/random.h"

namespace nwc::test {
namespace {

constexpr uint32_t kEpochs = 2, kStages = 4;

/// Models on random tokens: what is tuned does not matter here.
class RecoveryFilesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    open(NWC_SOURCE_DIR "/tests/fixtures/logits/tiny-linear");  // 19,000 random weights
    options_.bits = 3;
    options_.min_elements = 256;
    options_.choices.quantizer.trellis_bits = 0;
    options_.choices.refit_tables = false;
    options_.choices.importance = Importance::kNone;
    options_.choices.allocation = Allocation::kNone;
    options_.threads = 2;
    RecoveryChoices& recovery = options_.recovery;
    recovery.tune = true;
    recovery.options.epochs = kEpochs;
    recovery.options.batch_tokens = 64;
    recovery.context = 16;
    Random random({1});
    for (int i = 0; i < 256; ++i) recovery.tokens.push_back(static_cast<uint32_t>(random.below(67)));
  }

  void open(const std::string& path) {
    auto source = open_model_source(path);
    ASSERT_TRUE(source.ok()) << source.status().message();
    source_ = std::move(source).value();
    layers_ = source_->model()->num_layers;
  }

  std::string folder() const { return dir_.file("recovery"); }

  /// The file's bytes; empty if there is none. stop_after: blocks after which the user interrupts.
  std::string compress(RecoveryFiles* files, std::optional<uint32_t> stop_after = {}) {
    options_.recovery.files = files;
    const std::string path = dir_.file("model.nwc");
    std::filesystem::remove(path);
    status_ =
        compress_model(*source_, identity_codec(), options_, path, interrupting(stop_after), collecting_log()).status();
    return load_file(path);
  }

  /// The tensors' bytes after recovery alone, at some step; empty if it was interrupted.
  std::string recover(RecoveryFiles* files, std::optional<uint32_t> stop_after = {}, double log_step = -3) {
    options_.recovery.files = files;
    const auto runner = make_thread_pool(options_.threads);
    std::vector<PlannedTensor> plan = plan_model(*source_, options_.min_elements);
    auto rate = RateModel::survey(*source_, identity_codec(), {options_.calibration}, options_.choices, &plan, {},
                                  {*runner, one_rank(), ""});
    EXPECT_TRUE(rate.ok()) << rate.status().message();
    RateEstimate estimate;
    const auto fitted = rate->fit(log_step, *runner, &estimate);
    EXPECT_TRUE(fitted.ok()) << fitted.status().message();
    const auto recovered = recover_model(*source_, options_.calibration, &*rate, *fitted, log_step, options_.recovery,
                                         *runner, interrupting(stop_after), collecting_log());
    status_ = recovered.status();
    std::string out;
    if (!recovered.ok()) return out;
    for (size_t i = 0; i < source_->tensors().size(); ++i) {
      const SourceTensor& tensor = source_->tensors()[i];
      std::vector<uint8_t> bytes(tensor.num_elements() * dtype_size(tensor.dtype));
      if (const auto part = recovered->parts.find(i); part != recovered->parts.end()) {
        const EncodedTensor& encoded = part->second.encoded;
        bytes = encoded.side;
        bytes.insert(bytes.end(), encoded.payload.begin(), encoded.payload.end());
      } else {
        EXPECT_TRUE(recovered->source->read_raw(i, bytes).ok());
      }
      out.append(bytes.begin(), bytes.end());
    }
    return out;
  }

  /// Nothing else has so many units of work as recovery.
  Progress interrupting(std::optional<uint32_t> stop_after) {
    stop_epoch_ = stop_after.value_or(layers_) * kStages * kEpochs;
    return {[](void* user, uint64_t done, uint64_t total) {
              const auto* self = static_cast<const RecoveryFilesTest*>(user);
              return total != self->layers_ * kStages * kEpochs || done < self->stop_epoch_;
            },
            this};
  }
  Logger collecting_log() {
    warnings_.clear();
    return {[](void* user, LogLevel level, const char* message) {
              auto* self = static_cast<RecoveryFilesTest*>(user);
              (level == LogLevel::kWarning ? self->warnings_ : self->messages_).push_back(message);
            },
            this};
  }

  /// Paths of the blocks that are kept, in order.
  std::vector<std::string> blocks() const {
    std::vector<std::string> out;
    if (!std::filesystem::exists(folder())) return out;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder()))
      if (entry.is_regular_file()) out.push_back(entry.path().string());
    std::sort(out.begin(), out.end());
    return out;
  }

  const TempDir dir_;
  std::unique_ptr<ModelSource> source_;
  uint32_t layers_ = 0;
  uint64_t stop_epoch_ = 0;
  CompressOptions options_;
  Status status_;
  std::vector<std::string> warnings_, messages_;
};

TEST_F(RecoveryFilesTest, AnInterruptedRunGoesOn) {
  open(NWC_SOURCE_DIR "/models/gutenlm-2.6m");
  const std::string whole = compress(nullptr);
  ASSERT_NE(whole.size(), 0u) << status_.message();

  RecoveryFiles first(folder());
  EXPECT_TRUE(compress(&first, 1).empty());
  EXPECT_EQ(status_.code(), StatusCode::kCancelled);
  EXPECT_NE(status_.message().find(folder()), std::string::npos) << status_.message();
  ASSERT_EQ(blocks().size(), 1u);
  const auto written = std::filesystem::last_write_time(blocks()[0]);

  options_.threads = 1;
  RecoveryFiles second(folder());
  EXPECT_TRUE(compress(&second, 2).empty());
  EXPECT_EQ(second.taken(), 1u);
  EXPECT_EQ(blocks().size(), 2u);
  EXPECT_EQ(std::filesystem::last_write_time(blocks()[0]), written) << "done twice";

  messages_.clear();
  RecoveryFiles third(folder());
  EXPECT_TRUE(compress(&third) == whole);
  EXPECT_EQ(third.taken(), 2u);
  EXPECT_EQ(blocks().size(), layers_);
  EXPECT_TRUE(warnings_.empty()) << warnings_[0];
  EXPECT_TRUE(std::any_of(messages_.begin(), messages_.end(), [](const std::string& m) {
    return m.find("2 of 6 blocks are taken from an earlier run") != std::string::npos;
  }));

  third.remove({});
  EXPECT_FALSE(std::filesystem::exists(folder()));
}

TEST_F(RecoveryFilesTest, SoDoesOneThatOnlyCorrectsDrift) {
  options_.recovery.tune = false;
  options_.recovery.drift.enabled = true;
  const std::string whole = recover(nullptr);
  ASSERT_NE(whole.size(), 0u) << status_.message();
  RecoveryFiles first(folder());
  EXPECT_TRUE(recover(&first, 1).empty());
  EXPECT_EQ(status_.code(), StatusCode::kCancelled);
  EXPECT_EQ(blocks().size(), 1u);
  options_.threads = 1;
  RecoveryFiles second(folder());
  EXPECT_TRUE(recover(&second) == whole);
  EXPECT_EQ(second.taken(), 1u);
  options_.recovery.drift.damping = 1;
  EXPECT_TRUE(recover(nullptr) != whole);
}

TEST_F(RecoveryFilesTest, DamagedAndForeignFilesAreMadeAgain) {
  RecoveryFiles made(folder());
  const std::string whole = recover(&made);
  ASSERT_NE(whole.size(), 0u) << status_.message();
  ASSERT_EQ(blocks().size(), layers_);
  const std::vector<std::string> paths = blocks();
  std::vector<std::string> content;
  for (const std::string& path : paths) content.push_back(load_file(path));

  std::vector<std::string> damaged(6, content[0]);
  damaged[0][damaged[0].size() / 2] ^= 1;                        // a bit
  damaged[1].resize(damaged[1].size() - 1);                      // truncated
  damaged[2] = content[1];                                       // another block's
  damaged[3] = "";                                               // as after a power failure
  damaged[4].replace(0, 8, "\xff\xff\xff\xff\xff\xff\xff\x7f");  // a header of 2^63 bytes
  damaged[5].replace(damaged[5].find("crc32"), 5, "crc23");
  for (const std::string& bytes : damaged) {
    std::ofstream(paths[0], std::ios::binary) << bytes;
    RecoveryFiles again(folder());
    EXPECT_TRUE(recover(&again) == whole) << status_.message();
    EXPECT_EQ(again.taken(), layers_ - 1);
    EXPECT_EQ(warnings_.size(), 1u);
    EXPECT_TRUE(load_file(paths[0]) == content[0]);
  }

  // A file of other settings, in this one's place.
  options_.recovery.options.learning_rate = 2e-2;
  RecoveryFiles other(folder());
  const std::string another = recover(&other);
  EXPECT_EQ(other.taken(), 0u);
  EXPECT_TRUE(another != whole);
  const std::vector<std::string> all = blocks();
  ASSERT_EQ(all.size(), 2 * layers_);
  for (const std::string& path : all) {
    if (std::find(paths.begin(), paths.end(), path) != paths.end()) continue;
    const auto same_block = std::find_if(paths.begin(), paths.end(), [&](const std::string& p) {
      return std::filesystem::path(p).filename() == std::filesystem::path(path).filename();
    });
    std::filesystem::copy_file(*same_block, path, std::filesystem::copy_options::overwrite_existing);
  }
  RecoveryFiles fooled(folder());
  EXPECT_TRUE(recover(&fooled) == another);
  EXPECT_EQ(fooled.taken(), 0u);
  EXPECT_EQ(warnings_.size(), size_t{layers_});

  // One run's clearing up leaves the other's alone.
  fooled.remove({});
  EXPECT_EQ(blocks(), paths);
}

/// Says nothing about any tensor.
class NamedCalibration : public Calibration {
 public:
  const std::string& hash() const override { return hash_; }
  uint64_t tokens() const override { return 0; }
  bool covers(const std::string&) const override { return false; }
  Result<TensorStatistics> load(const std::string& tensor, HessianKind) const override {
    return invalid_argument(tensor);
  }

 private:
  const std::string hash_ = "0123456789abcdef";
};

TEST_F(RecoveryFilesTest, EverySettingThatCountsIsToldApart) {
  NamedCalibration calibration;
  const std::vector<std::function<void(CompressOptions*)>> changes = {
      [](CompressOptions*) {},
      [](CompressOptions* o) { o->choices.rdo_strength = 0.25; },
      [](CompressOptions* o) { o->choices.quantizer.trellis_bits = 2; },
      [](CompressOptions* o) { o->choices.importance = Importance::kFlat; },
      [](CompressOptions* o) { o->min_elements = 800; },
      [](CompressOptions* o) { o->recovery.tokens.pop_back(); },
      [](CompressOptions* o) { o->recovery.tokens[7] ^= 1; },
      [](CompressOptions* o) { o->recovery.context = 8; },
      [](CompressOptions* o) { o->recovery.options.learning_rate = 2e-2; },
      [](CompressOptions* o) { o->recovery.options.seed = 2; },
      [](CompressOptions* o) { o->recovery.options.batch_tokens = 32; },
      [](CompressOptions* o) { o->recovery.drifted_inputs = false; },
      [](CompressOptions* o) { o->recovery.drift.enabled = true; },
      [](CompressOptions* o) {
        o->recovery.drift.enabled = true;
        o->recovery.drift.validation = 0.25;
      },
      [&](CompressOptions* o) { o->calibration = &calibration; },
  };
  const CompressOptions given = options_;
  for (size_t i = 0; i < changes.size(); ++i) {
    options_ = given;
    changes[i](&options_);
    RecoveryFiles files(folder());
    EXPECT_TRUE(recover(&files, 1).empty());
    EXPECT_EQ(status_.code(), StatusCode::kCancelled) << i << ": " << status_.message();
    EXPECT_EQ(files.taken(), 0u) << i;
    EXPECT_EQ(blocks().size(), i + 1);
  }
  options_ = given;
  RecoveryFiles files(folder());
  EXPECT_TRUE(recover(&files, 1, -2.9).empty());
  EXPECT_EQ(files.taken(), 0u) << "of another step";
  EXPECT_TRUE(recover(&files, 2).empty());
  EXPECT_EQ(files.taken(), 1u);
}

TEST_F(RecoveryFilesTest, WhatCannotBeKeptIsNoError) {
  dir_.write("recovery", "a file where the folder should be");
  const std::string whole = recover(nullptr);
  ASSERT_NE(whole.size(), 0u) << status_.message();
  RecoveryFiles files(folder());
  EXPECT_TRUE(recover(&files) == whole) << status_.message();
  EXPECT_EQ(warnings_.size(), 1u);
  files.remove({});
  EXPECT_EQ(load_file(folder()), "a file where the folder should be");
}

TEST_F(RecoveryFilesTest, MatricesThatStayRawAreTunedInTheirOwnType) {
  options_.min_elements = 800;  // q, k, v and o stay in bf16
  const std::string whole = recover(nullptr);
  ASSERT_NE(whole.size(), 0u) << status_.message();
  RecoveryFiles first(folder()), second(folder());
  EXPECT_TRUE(recover(&first, 2).empty());
  EXPECT_TRUE(recover(&second) == whole);
  EXPECT_EQ(second.taken(), 2u);
  options_.min_elements = 256;
  EXPECT_LT(recover(nullptr).size(), whole.size());
}

}  // namespace
}  // namespace nwc::test
