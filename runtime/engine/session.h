// Evaluating a language model that lies in a .nwc file: tokens in, logits out, with a KV cache and a hard memory
// budget that is planned before anything is allocated.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>

#include "runtime/decoder/decoder.h"
#include "runtime/engine/buffer.h"
#include "runtime/engine/expert_cache.h"
#include "runtime/engine/integer_rates.h"

namespace nwc {

struct HeldForms;    // runtime/engine/held_weights.h
struct HeldWeights;  // likewise

/// Which weights stay in memory.
enum class SessionMode : uint8_t {
  /// kResident without a budget or where it fits; else, where the synthesis is linear, kFused; else kCached or
  /// kStreamed.
  kAuto = 0,
  kResident = 1,  ///< everything is decoded once, at creation
  kStreamed = 2,  ///< two layer buffers: the next layer is decoded while this one computes
  kCached = 3,    ///< as many layers resident as the budget allows, the others streamed
  /// Single tokens (on a device: up to 8) multiply by the coded weights; for more, layer by layer is decoded. On a
  /// device
  /// the coded weights stay in its memory. What a budget leaves holds decoded layers, as in kCached.
  kFused = 4,
};
const char* session_mode_name(SessionMode mode);

/// Where layers are computed.
enum class Compute : uint8_t {
  kCpu = 0,
  kVulkan = 1,  ///< on the device of the decoder, which has to be a Vulkan one; weights and KV cache lie there
};

/// Which experts of a layer a token takes, ascending; the tokens of a batch are told one after another.
using ExpertsChosen = std::function<void(uint32_t layer, std::span<const uint32_t> experts)>;

struct SessionParams {
  Compute compute = Compute::kCpu;
  bool cpu_fallback = false;  ///< kVulkan: go on with kCpu when the device fails, with a warning
  uint32_t context = 0;       ///< tokens the KV cache holds; 0: the model's maximum, at most kDefaultContextCap
  SessionMode mode = SessionMode::kAuto;
  uint64_t memory_budget_bytes = 0;  ///< 0: none. Hard: MemoryPlan::total never exceeds it
  Dtype weight_dtype = Dtype::kF16;  ///< kF32, kF16 or kBf16: how decoded weights are held; arithmetic is f32
  bool fit_weight_dtype = false;     ///< kF16 becomes kBf16 for a model whose weights f16 cannot hold
  /// Other than kNone: coded weights are held as integers, and all others in the smallest type that holds them exactly;
  /// weight_dtype counts only where no weights are integers. What the codec's synthesis makes of its integers, unless
  /// it is the identity, kQ8 and kPacked round to 8 bits; kAuto takes weight_dtype instead.
  /// kAuto is kQ8 where all weights stay in memory either way, and integer_rates say that it is faster by more than a
  /// twentieth; else kPacked. Both give the same logits.
  IntegerWeights integers = IntegerWeights::kNone;
  IntegerRates integer_rates;  ///< of this machine, for the CPU; measured_integer_rates() has them
  /// MemoryPlan::forms of an earlier plan of the same file, which are taken as they are where they are of the same
  /// `compute`; else, and if null, they are worked out from side information.
  std::shared_ptr<const HeldForms> forms;
  Dtype kv_dtype = Dtype::kF16;  ///< kF32 or kF16
  uint32_t batch = 0;            ///< most tokens that pass through the layers together; 0: chosen by the plan
  /// Other than 1: so many sequences advance side by side, by Session::step() alone. kCpu only.
  uint32_t sequences = 1;
  uint64_t device_window_bytes =
      kMaxWindowBytes;                   ///< kVulkan: the decoder's VulkanOptions::max_window_bytes, for planning
  uint32_t num_threads = 0;              ///< for planning scratch memory; Session::create takes the runner's
  CpuLevel max_cpu = CpuLevel::kAvx512;  ///< kernels: the best level up to this one that the machine has
  bool check_crc = true;                 ///< CRC-32 of every part of the file, the first time it is touched
  Allocator allocator;                   ///< of the session's buffers in the host's memory
  bool file_in_memory = false;           ///< the file's bytes occupy memory: count them against the budget
  ExpertsChosen experts_chosen;          ///< told of every choice, for benchmarks; empty: nobody asks
};
inline constexpr uint32_t kDefaultContextCap = 8192;

/// Why weights are held as they are.
enum class WeightChoice : uint8_t {
  kAsked = 0,        ///< by name
  kNoIntegers = 1,   ///< kAuto: coded weights are not integers times scales, or there are none
  kOnDevice = 2,     ///< kAuto: a device takes kPacked
  kSmaller = 3,      ///< kAuto: not all weights would stay in memory as kQ8
  kNotMeasured = 4,  ///< kAuto: kPacked, since there are no rates
  kFaster = 5,       ///< kAuto: by measured rates
};

/// What a session will allocate, in bytes. Computed from the metadata alone.
struct MemoryPlan {
  SessionMode mode = SessionMode::kResident;  ///< never kAuto
  uint32_t context = 0;
  uint32_t batch = 0;
  uint32_t resident_layers = 0;      ///< layers 0 .. resident_layers - 1 are kept decoded, the others streamed or fused
  uint32_t num_experts = 0;          ///< of all layers; 0: the model is no mixture of experts
  uint32_t expert_slots = 0;         ///< decoded experts that are kept, the last used ones; num_experts: all
  uint32_t experts_read_ahead = 0;   ///< for the stored bytes of so many there is memory; 0: read when decoded
  bool embedding_resident = false;   ///< false: embedding rows are decoded when a token needs them
  bool head_resident = false;        ///< false: the output head is decoded in bands of rows for every batch
  Dtype weight_dtype = Dtype::kF16;  ///< what is taken
  IntegerWeights integers = IntegerWeights::kNone;  ///< kQ8 or kPacked: what coded weights are held as; or kNone
  bool requantized = false;                         ///< the integers are weights rounded to 8 bits, not the codec's own
  std::shared_ptr<const HeldWeights> held;
  std::shared_ptr<const HeldForms> forms;  ///< null: coded weights cannot be, or are not asked to be, integers
  WeightChoice choice = WeightChoice::kAsked;
  uint64_t f16_bytes = 0, q8_bytes = 0, packed_bytes = 0;  ///< of all matrices in a form; 0: not worked out
  double q8_per_second = 0, packed_per_second = 0;         ///< weights of products by integer_rates; 0: there are none
  std::string integers_note;   ///< why weights are not held as integers, though they were asked for; empty: no reason
  std::string weight_warning;  ///< why f16 is not taken, or should not have been asked for; empty: no reason
  uint64_t weights = 0;        ///< resident: layers, embedding, head, norms
  uint64_t layer_buffers =
      0;  ///< the buffers of streamed layers (kFused: one), head band, embedding row, stored experts
  uint64_t kv_cache = 0;
  uint64_t activations = 0;
  uint64_t decoder_scratch = 0;  ///< upper estimate of what the decoder allocates while it works
  uint64_t compressed_file = 0;  ///< size of the file; part of total only with SessionParams::file_in_memory
  uint64_t total = 0;
  uint64_t needed_resident = 0;  ///< total that mode kResident would need with the same context
  uint64_t needed_streamed = 0;  ///< total that mode kStreamed would need at least, with the same context
  uint64_t needed_fused = 0;     ///< total that mode kFused would need at least, with the same context
};

/// errors: kUnsupported (no MODEL section, dtype), kInvalidArgument (context beyond the model's maximum, batch),
///         kCorrupt (a tensor is missing or has the wrong shape: names it), kBudget (says what would fit)
Result<MemoryPlan> plan_session(const NwcFile& file, const SessionParams& params);

/// Which rows of logits eval() writes.
enum class LogitsWanted : uint8_t { kNone, kLast, kAll };

/// One sequence of tokens and its KV cache. Not thread-safe: one call at a time.
///
/// On the CPU the results do not depend on the number of threads, nor on the mode (bit for bit). How a sequence is
/// split into calls changes them only by the rounding of f32 sums, and so does Compute::kVulkan, which adds in another
/// order. kFused does not round the weights that it multiplies by to weight_dtype, as the other modes do: its logits
/// differ by the effect of that rounding, in some random models by more than 6 % of the largest (tests/fuzz/README.md).
/// With integers, rows of an embedding and bands of a head that do not stay are f32: modes that keep them differ from
/// those that do not by the rounding of f32 sums and of inputs, and of requantized weights.
class Session {
 public:
  /// file, decoder and runner must outlive the session. With streamed layers the decoder is called from a thread of the
  /// session's own: let nobody else use it unless it is thread-safe, and give it another Runner than `runner` if
  /// decoding and computing are to overlap (with the same one they take turns). progress: in layers.
  /// errors: those of plan_session and of Decoder::decode; kCancelled; kOutOfMemory
  static Result<std::unique_ptr<Session>> create(const NwcFile& file, Decoder& decoder, Runner& runner,
                                                 const SessionParams& params, const Logger& logger = {},
                                                 const Progress& progress = {});
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  /// Appends tokens to the sequence and passes them, after those that append() left, through the layers, in batches of
  /// at most batch(). Any number; none only after append().
  /// shapes: logits [vocab_size] for kLast, [tokens.size()][vocab_size] for kAll, unused for kNone
  /// errors: kUnsupported (an encoder, several sequences), kInvalidArgument (token id out of range, no tokens), kLimit
  ///         (context full), kBufferTooSmall: all of these
  ///         before anything changes; the decoder's errors: the position is then where it was before the call
  Status eval(std::span<const uint32_t> tokens, LogitsWanted wanted, std::span<float> logits);
  /// From now on eval() reports its tokens before each batch and at the end. Where the report says so before a batch,
  /// it ends with kCancelled, and the position is where it was.
  void set_progress(const Progress& progress);

  /// Reads one text whole, as an encoder does, and gives its embedding; the sequence is this text afterwards.
  /// shapes: hidden [tokens.size()][hidden_size], or empty; embedding [embedding_size], or empty
  /// errors: kUnsupported (no encoder of texts), kInvalidArgument (token id, no tokens), kLimit (more than the
  ///         context), kBufferTooSmall, the decoder's
  Status embed(std::span<const uint32_t> tokens, std::span<float> hidden, std::span<float> embedding);
  /// The same of an image.
  /// shapes: pixels [channels][height][width] (model().ends.encoder), normalized as the model was trained;
  ///         hidden [max_positions][hidden_size], or empty; embedding [embedding_size], or empty
  /// errors: kUnsupported (no encoder of images), kInvalidArgument (another number of pixels, or not finite ones),
  ///         kBufferTooSmall, the decoder's
  Status embed_image(std::span<const float> pixels, std::span<float> hidden, std::span<float> embedding);
  /// An image's embedded patches and what stands beside them, in front of the norm that may follow:
  /// [max_positions][hidden_size]; valid until another call.
  /// errors: kUnsupported, kInvalidArgument: those of embed_image
  Result<std::span<const float>> image_states(std::span<const float> pixels);
  /// Final hidden states of tokens of the last batch, as logits(). out [count][hidden_size].
  Status hidden(uint32_t first, uint32_t count, std::span<float> out);

  /// Appends one token to each of SessionParams::sequences sequences and gives each one's next logits. They share the
  /// reading of the weights, and nothing else: a sequence's logits do not depend on the others' tokens.
  /// shapes: tokens [sequences]; logits [sequences][vocab_size]
  /// errors: kInvalidArgument (another number of tokens, a token id), kLimit (context full), kBufferTooSmall, the
  ///         decoder's: then the position is where it was
  Status step(std::span<const uint32_t> tokens, std::span<float> logits);

  /// Appends a token that the next eval() passes through the layers: nobody needs its logits yet.
  /// errors: kInvalidArgument (out of range), kLimit (context full)
  Status append(uint32_t token);

  /// Logits of tokens of the last batch, after eval(): `first` counts from the start of that batch, whose length is
  /// last_batch(). Lets a caller with a large vocabulary take them in pieces. out is [count][vocab_size].
  /// errors: kInvalidArgument (range), kBufferTooSmall, the decoder's
  Status logits(uint32_t first, uint32_t count, std::span<float> out);
  uint32_t last_batch() const;

  uint32_t position() const;  ///< tokens in the sequence
  /// Forgets everything from `position` on. Layers with a window keep the newest positions only: from further back the
  /// next eval() passes the whole sequence through the model again. errors: kInvalidArgument (beyond the sequence)
  Status truncate(uint32_t position);
  void reset();

  /// Bytes of save_state() now. errors: kUnsupported (an encoder, several sequences)
  Result<uint64_t> state_bytes() const;
  /// The sequence and what it left in the KV cache, for load_state() of any session of the same file with the same
  /// kv_dtype: of another context, mode, processor or form of weights, too. out: state_bytes()
  /// errors: kUnsupported, kBufferTooSmall, the device's
  Status save_state(MutableBytes out);
  /// Takes the place of the sequence. Logits are there after the next eval().
  /// errors: kUnsupported, kUnrecognized, kUnsupportedVersion, kTruncated, kChecksum, kCorrupt, kInvalidArgument
  /// (another
  ///         file or kv_dtype), kLimit (more tokens than the context): all before anything changes; the device's: then
  ///         the sequence is empty
  Status load_state(Bytes state);

  const ModelRecord& model() const;
  const MemoryPlan& plan() const;
  uint32_t vocab_size() const { return model().vocab_size; }
  uint32_t context() const { return plan().context; }
  uint32_t batch() const { return plan().batch; }
  CpuLevel cpu() const;
  Compute compute() const;  ///< where layers are computed now
  /// What decoding experts took so far; all 0 for a model without any.
  ExpertStats expert_stats() const;
  /// Bytes that the session itself holds now; at most plan().total minus decoder scratch and file.
  uint64_t allocated_bytes() const;

 private:
  struct Impl;
  explicit Session(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace nwc
