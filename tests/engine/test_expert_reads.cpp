// Experts whose stored bytes are read ahead: order, memory, errors, and sessions over sources that fail or are watched.
#include <unistd.h>

#include <set>
#include <thread>

#include "runtime/engine/expert_rate.h"
#include "runtime/engine/expert_reads.h"
#include "runtime/engine/session_cost.h"
#include "tests/engine/family_fixture.h"

namespace nwc::test {
namespace {

/// Bytes that are their offset, given out only while the gate is open.
struct Gate {
  std::mutex mutex;
  std::condition_variable changed;
  bool open = false;
  std::vector<uint64_t> reads;  ///< offsets, in the order in which they began
  uint64_t fail_at = UINT64_MAX;

  std::unique_ptr<Reader> reader() {
    return make_callback_reader(1 << 16, [this](uint64_t offset, void* out, size_t size) {
      std::unique_lock lock(mutex);
      reads.push_back(offset);
      changed.wait(lock, [this] { return open; });
      for (size_t i = 0; i < size; ++i) static_cast<uint8_t*>(out)[i] = static_cast<uint8_t>((offset + i) / 64);
      return offset != fail_at;
    });
  }
  void set(bool to) {
    std::lock_guard lock(mutex);
    open = to;
    changed.notify_all();
  }
  size_t count() {
    std::lock_guard lock(mutex);
    return reads.size();
  }
};

constexpr uint64_t kBytes = 64;
const std::string kName = "an expert's tensor";
std::vector<ExpertReads::Piece> piece(uint64_t expert) { return {{expert * kBytes, kBytes, &kName}}; }

TEST(ExpertReads, WhatIsNeededComesFirst) {
  Gate gate;
  const StagedReader reader(gate.reader());
  HostMemory memory;
  ExpertReads reads(reader);
  ASSERT_TRUE(reads.start(6, kBytes, &memory).ok());
  EXPECT_EQ(memory.bytes, 6 * kBytes);
  EXPECT_FALSE(reads.need(1, piece(1))) << "nothing is read between calls";
  {
    const ExpertReads::Running running(&reads);
    for (const uint64_t expert : {10u, 11u, 12u, 13u}) reads.may_need(expert, piece(expert));
    while (gate.count() < 4) std::this_thread::yield();  // all threads are at work
    reads.may_need(14, piece(14));
    EXPECT_TRUE(reads.need(20, piece(20)));
    EXPECT_TRUE(reads.need(21, piece(21))) << "14 makes way";
    EXPECT_FALSE(reads.need(22, piece(22)));
    reads.keep(std::vector<uint64_t>{11, 20, 21});
    gate.set(true);
    std::vector<size_t> read;
    const std::vector<uint64_t> wanted = {20, 21, 11};
    for (std::set<size_t> done; done.size() < 3;) {
      ASSERT_TRUE(reads.wait(wanted, &read).ok());
      done.insert(read.begin(), read.end());
    }
    EXPECT_EQ(gate.count(), 6u) << "14 was not read";
    uint8_t byte = 0;
    ASSERT_TRUE(reader.read(20 * kBytes, {&byte, 1}).ok());
    EXPECT_EQ(byte, 20);
    EXPECT_EQ(gate.count(), 6u) << "from memory";
    reads.release(20);
    ASSERT_TRUE(reader.read(20 * kBytes, {&byte, 1}).ok());
    EXPECT_EQ(gate.count(), 7u);
    EXPECT_TRUE(reads.need(22, piece(22)));
  }
  const size_t before = gate.count();
  uint8_t byte = 0;
  ASSERT_TRUE(reader.read(21 * kBytes, {&byte, 1}).ok());
  EXPECT_EQ(gate.count(), before + 1) << "nothing is kept after the call";
}

TEST(ExpertReads, AnErrorNamesTheTensorAndIsForgotten) {
  Gate gate;
  gate.open = true;
  gate.fail_at = 3 * kBytes;
  const StagedReader reader(gate.reader());
  HostMemory memory;
  ExpertReads reads(reader);
  ASSERT_TRUE(reads.start(2, kBytes, &memory).ok());
  std::vector<size_t> read;
  const std::vector<uint64_t> three = {3};
  for (const bool fails : {true, false}) {
    const ExpertReads::Running running(&reads);
    ASSERT_TRUE(reads.need(3, piece(3)));
    const Status status = reads.wait(three, &read);
    EXPECT_EQ(status.code(), fails ? StatusCode::kIo : StatusCode::kOk);
    EXPECT_EQ(status.message().find(kName) != std::string::npos, fails) << status.message();
    gate.fail_at = UINT64_MAX;
  }
}

/// A mixture of which all but some experts stays, and whose experts are read ahead.
SessionParams reads_ahead(const FamilyFixture& f, const NwcFile& file) {
  SessionParams params;
  params.weight_dtype = params.kv_dtype = Dtype::kF32;
  params.context = static_cast<uint32_t>(f.tokens.size());
  params.batch = 1;
  params.num_threads = 2;
  params.mode = SessionMode::kCached;
  params.memory_budget_bytes = plan_session(file, params)->needed_streamed;
  for (;; params.memory_budget_bytes += 1000) {
    const auto plan = plan_session(file, params);
    EXPECT_TRUE(plan.ok()) << plan.status().message();
    if (!plan.ok() || (plan->resident_layers == file.model()->num_layers && plan->experts_read_ahead > 1)) break;
  }
  EXPECT_LT(plan_session(file, params)->expert_slots, plan_session(file, params)->num_experts);
  return params;
}

/// The file's end goes while a session streams its experts: an error that says where, and with the bytes back it goes
/// on from where it was.
TEST(ExpertReads, AFileThatIsCut) {
  if (family_names().front() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/families is not here";
  const FamilyFixture f = make_family("mixtral");
  const PlainModel model = load_model(f.folder);
  const std::string path = f.kept->file("model.nwc");
  write_file(model, path);
  std::unique_ptr<NwcFile> file = open_file(path);
  ASSERT_NE(file, nullptr);
  const SessionParams params = reads_ahead(f, *file);
  Bench bench = make_bench(std::move(file), params);
  ASSERT_NE(bench.session, nullptr);
  const std::vector<float> wanted = all_logits(*bench.session, f.tokens);
  const std::string expert = "model.layers.1.block_sparse_moe.experts.0.w1.weight";
  const uint64_t at = bench.file->data_offset() + bench.file->tensors()[*bench.file->find(expert)].offset;
  std::vector<uint8_t> rest(bench.file->reader().size() - at);
  ASSERT_TRUE(bench.file->reader().read(at, rest).ok());
  const size_t half = f.tokens.size() / 2;
  const std::span<const uint32_t> tokens(f.tokens);
  bench.session->reset();
  ASSERT_TRUE(bench.session->eval(tokens.first(half), LogitsWanted::kNone, {}).ok());
  ASSERT_EQ(truncate(path.c_str(), static_cast<off_t>(at)), 0);
  const Status cut = bench.session->eval(tokens.subspan(half), LogitsWanted::kNone, {});
  EXPECT_EQ(cut.code(), StatusCode::kTruncated) << cut.message();
  for (const char* const part : {"tensor 'model.layers.", "block_sparse_moe.experts.", "has become shorter", "offset"})
    EXPECT_NE(cut.message().find(part), std::string::npos) << cut.message();
  EXPECT_EQ(bench.session->position(), half);
  {
    std::ofstream out(path, std::ios::binary | std::ios::app);
    out.write(reinterpret_cast<const char*>(rest.data()), static_cast<std::streamsize>(rest.size()));
  }
  std::vector<float> logits((tokens.size() - half) * bench.session->vocab_size());
  const Status again = bench.session->eval(tokens.subspan(half), LogitsWanted::kAll, logits);
  ASSERT_TRUE(again.ok()) << again.message();
  EXPECT_EQ(logits, std::vector<float>(wanted.end() - static_cast<ptrdiff_t>(logits.size()), wanted.end()));
}

TEST(ExpertRate, FewExpertsAreUsedEvenly) {
  EXPECT_EQ(expected_expert_hits(1, 8), 1);
  EXPECT_EQ(expected_expert_hits(1, 128), 1);
  EXPECT_EQ(expected_expert_hits(0.5, 8), 0.5);
  EXPECT_NEAR(expected_expert_hits(0.25, 128), 0.81, 0.005);  // as published (bench/routing.h)
  EXPECT_EQ(expected_expert_hits(0, 128), 0);
}

TEST(ExpertRate, IsMeasuredOfExpertsAllOverTheFile) {
  if (family_names().front() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/families is not here";
  const FamilyFixture f = make_family("mixtral");
  const PlainModel model = load_model(f.folder);
  const std::string path = f.kept->file("model.nwc");
  write_file(model, path);
  const std::unique_ptr<NwcFile> file = open_file(path);
  ASSERT_NE(file, nullptr);
  const SessionParams params = reads_ahead(f, *file);
  const auto plan = plan_session(*file, params);
  ASSERT_TRUE(plan.ok());
  // Every expert is read once, as there are few.
  auto plain = open_file_reader(path);
  ASSERT_TRUE(plain.ok());
  std::mutex mutex;
  std::multiset<uint64_t> offsets;
  bool fails = false;
  auto watched = NwcFile::open(make_callback_reader((*plain)->size(), [&](uint64_t offset, void* out, size_t size) {
    std::lock_guard lock(mutex);
    offsets.insert(offset);
    return !fails && (*plain)->read(offset, {static_cast<uint8_t*>(out), size}).ok();
  }));
  ASSERT_TRUE(watched.ok());
  offsets.clear();
  const auto rate = measure_expert_read_rate(**watched, *plan);
  ASSERT_TRUE(rate.ok()) << rate.status().message();
  EXPECT_GT(*rate, 0);
  const auto layout = resolve_file_layout(**watched);
  std::multiset<uint64_t> wanted;
  for (const LayerLayout& layer : layout->layers) {
    for (const PlacedMatrix& m : layer.expert_matrices) wanted.insert(stored_range(**watched, m.tensor).first);
  }
  EXPECT_EQ(offsets, wanted);
  fails = true;
  EXPECT_EQ(measure_expert_read_rate(**watched, *plan).status().code(), StatusCode::kIo);
  MemoryPlan none = *plan;
  none.experts_read_ahead = 0;
  EXPECT_EQ(*measure_expert_read_rate(*file, none), 0);

  // A token takes two experts of each layer, and finds them by their share.
  const SessionRates rates{.decoded_weights = 1e6, .fused_weights = 1e6, .memory_bytes = 1e8, .read_bytes = 1e3};
  const auto cost = session_cost(*file, *plan, Dtype::kF32, rates);
  ASSERT_TRUE(cost.ok());
  const double share = static_cast<double>(plan->expert_slots) / plan->num_experts;
  EXPECT_DOUBLE_EQ(cost->expert_hits, share);
  uint64_t stored = 0;
  for (const LayerLayout& layer : layout->layers) {
    for (const PlacedMatrix& m : layer.expert_matrices) stored += file->tensors()[m.tensor].size;
  }
  const uint32_t experts = layout->layers[0].num_experts();
  EXPECT_NEAR(static_cast<double>(cost->read_bytes_per_token),
              (1 - share) * 2.0 / experts * static_cast<double>(stored), 1);
  EXPECT_DOUBLE_EQ(cost->read_seconds_per_token, static_cast<double>(cost->read_bytes_per_token) / 1e3);
  EXPECT_DOUBLE_EQ(cost->seconds_per_token(), cost->read_seconds_per_token + cost->multiply_seconds_per_token)
      << "reading takes longer than decoding";
}

/// A program's own reader is called by several threads, and only while a call lasts.
TEST(ExpertReads, ACallersReader) {
  if (family_names().front() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/families is not here";
  const FamilyFixture f = make_family("qwen3_moe");
  const PlainModel model = load_model(f.folder);
  const std::string path = f.kept->file("model.nwc");
  write_file(model, path);
  auto plain = open_file_reader(path);
  ASSERT_TRUE(plain.ok());
  std::atomic<bool> inside{true};
  std::atomic<int> outside{0}, calls{0};
  auto opened = NwcFile::open(make_callback_reader((*plain)->size(), [&](uint64_t offset, void* out, size_t size) {
    ++calls;
    if (!inside) ++outside;
    const bool ok = (*plain)->read(offset, {static_cast<uint8_t*>(out), size}).ok();
    if (!inside) ++outside;
    return ok;
  }));
  ASSERT_TRUE(opened.ok());
  const SessionParams params = reads_ahead(f, **opened);
  Bench bench = make_bench(std::move(opened).value(), params);
  ASSERT_NE(bench.session, nullptr);
  SessionParams all = params;
  all.memory_budget_bytes = 0;
  all.mode = SessionMode::kResident;
  const std::vector<float> wanted = all_logits(*make_bench(model, all).session, f.tokens);
  bench.session->reset();
  std::vector<float> logits;
  for (const uint32_t token : f.tokens) {
    std::vector<float> one(bench.session->vocab_size());
    inside = true;
    ASSERT_TRUE(bench.session->eval({&token, 1}, LogitsWanted::kLast, one).ok());
    inside = false;
    logits.insert(logits.end(), one.begin(), one.end());
  }
  EXPECT_EQ(logits, wanted);
  EXPECT_EQ(outside, 0);
  EXPECT_GT(calls, 0);
  EXPECT_GT(bench.session->expert_stats().misses, 0u);
}

}  // namespace
}  // namespace nwc::test
