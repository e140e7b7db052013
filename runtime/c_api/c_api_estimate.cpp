// nwc_session_make_estimate: what a session would take in time.
#include "runtime/c_api/session_plan.h"
#include "runtime/engine/expert_rate.h"
#include "runtime/engine/session_cost.h"

using namespace nwc;
using namespace nwc::c_api;

nwc_status nwc_session_make_estimate(const nwc_model* model, const nwc_session_params* params,
                                     const nwc_error_detail* error, nwc_session_estimate* out_estimate) {
  return make(error, [&]() -> Status {
    if (model == nullptr) return null_argument("model");
    nwc_session_params p;
    NWC_TRY(read_struct(params, "nwc_session_params", &p));
    const NwcFile& file = model->state->file();
    const LogTarget log{p.log, p.log_user};
    NWC_ASSIGN_OR_RETURN(const std::unique_ptr<Runner> runner, create_runner(p.runner, p.num_threads));
    NWC_ASSIGN_OR_RETURN(const PlannedSession planned, plan_of(file, p, runner.get()));
    NWC_ASSIGN_OR_RETURN(const std::unique_ptr<Decoder> decoder,
                         create_decoder(file, *runner, backend_of(p), log.logger()));
    NWC_ASSIGN_OR_RETURN(SessionRates rates, measure_session_rates(file, *decoder, *runner));
    NWC_ASSIGN_OR_RETURN(rates.read_bytes, measure_expert_read_rate(file, planned.plan));
    NWC_ASSIGN_OR_RETURN(const SessionCost cost, session_cost(file, planned.plan, planned.plan.weight_dtype, rates));
    nwc_session_estimate out{};
    out.mac_per_weight = cost.mac_per_weight;
    out.decode_weights_per_second = rates.decoded_weights;
    out.fused_weights_per_second = rates.fused_weights;
    out.memory_bytes_per_second = rates.memory_bytes;
    out.resident_weights = cost.resident_weights;
    out.weights_per_token = cost.weights_per_token;
    out.load_seconds = cost.load_seconds;
    out.decode_seconds_per_token = cost.decode_seconds_per_token;
    out.multiply_seconds_per_token = cost.multiply_seconds_per_token;
    out.seconds_per_token = cost.seconds_per_token();
    out.expert_hits = cost.expert_hits;
    out.read_bytes_per_second = rates.read_bytes;
    out.read_bytes_per_token = cost.read_bytes_per_token;
    out.read_seconds_per_token = cost.read_seconds_per_token;
    return write_struct(out, "nwc_session_estimate", out_estimate);
  });
}
