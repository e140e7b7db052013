// Inner loops of the vector baselines; native.py compiles them. Each is reentrant: Python's threads share the work.
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// One Viterbi search through a bitshift trellis (Tseng et al. 2024, QTIP): state of L bits, `shift` new bits a step, V
// values a step, values [V][2^L]; x [steps][V]. overlap >= 0: the first state's upper and the last state's lower L - shift
// bits are fixed to it (tail-biting). states [steps] receives the path. Scratch as allocated in trellis_search.
static void viterbi(const float* x, int steps, int L, int shift, int V, const float* values, int64_t overlap,
                    float* cost, float* best, uint16_t* from, uint32_t* states) {
  const int64_t num = (int64_t)1 << L, kept = num >> shift, fan = (int64_t)1 << shift;
  for (int64_t s = 0; s < num; ++s) cost[s] = overlap < 0 || (s >> shift) == overlap ? 0 : FLT_MAX / 4;
  for (int t = 0; t < steps; ++t) {
    if (t > 0) {
      uint16_t* arg = from + (int64_t)t * kept;
      memcpy(best, cost, (size_t)kept * sizeof *best);
      memset(arg, 0, (size_t)kept * sizeof *arg);
      for (int64_t f = 1; f < fan; ++f) {
        const float* other = cost + f * kept;
        for (int64_t p = 0; p < kept; ++p) {
          const int better = other[p] < best[p];
          best[p] = better ? other[p] : best[p];
          arg[p] = better ? (uint16_t)f : arg[p];
        }
      }
      for (int64_t p = 0; p < kept; ++p)
        for (int64_t f = 0; f < fan; ++f) cost[p * fan + f] = best[p];
    }
    for (int v = 0; v < V; ++v) {
      const float target = x[t * V + v];
      const float* value = values + (int64_t)v * num;
      for (int64_t s = 0; s < num; ++s) {
        const float d = value[s] - target;
        cost[s] += d * d;
      }
    }
  }
  int64_t last = -1;
  for (int64_t s = 0; s < num; ++s)
    if ((overlap < 0 || (s & (kept - 1)) == overlap) && (last < 0 || cost[s] < cost[last])) last = s;
  for (int t = steps - 1; t >= 0; --t) {
    states[t] = (uint32_t)last;
    if (t > 0) {
      const int64_t p = last >> shift;
      last = (int64_t)from[(int64_t)t * kept + p] * kept + p;
    }
  }
}

// x [count][steps * V] -> states [count][steps], tail-biting: the path of a sequence rotated by half its length supplies
// the overlap that both ends then share (QTIP, algorithm 4). Returns 0, or 1 without memory.
int trellis_search(const float* x, int64_t count, int steps, int L, int shift, int V, const float* values,
                   uint32_t* states) {
  const size_t num = (size_t)1 << L, kept = num >> shift;
  float* cost = malloc(num * sizeof *cost);
  float* best = malloc(kept * sizeof *best);
  uint16_t* from = malloc((size_t)steps * kept * sizeof *from);
  float* rotated = malloc((size_t)steps * V * sizeof *rotated);
  const int ok = cost && best && from && rotated;
  for (int64_t i = 0; ok && i < count; ++i) {
    const float* sequence = x + i * steps * V;
    uint32_t* path = states + i * steps;
    const int half = steps / 2;
    memcpy(rotated, sequence + half * V, (size_t)(steps - half) * V * sizeof *rotated);
    memcpy(rotated + (steps - half) * V, sequence, (size_t)half * V * sizeof *rotated);
    viterbi(rotated, steps, L, shift, V, values, -1, cost, best, from, path);
    const int64_t overlap = path[steps - half] >> shift;  // where the sequence's own start now lies
    viterbi(sequence, steps, L, shift, V, values, overlap, cost, best, from, path);
  }
  free(cost), free(best), free(from), free(rotated);
  return !ok;
}

// Nearest codeword of E8P (QuIP#): +-(entry with an even or odd number of minus signs) +- 1/4. entries [8][256], odd [256].
void e8p_nearest(const float* x, int64_t count, const float* entries, const uint8_t* odd, float* out) {
  for (int64_t i = 0; i < count; ++i) {
    float best = FLT_MAX;
    for (int side = 0; side < 2; ++side) {
      const float offset = side ? 0.25f : -0.25f;
      float a[8], sign[8];
      int negatives = 0;
      for (int j = 0; j < 8; ++j) {
        const float v = x[8 * i + j] - offset;
        sign[j] = v < 0 ? -1.0f : 1.0f;
        negatives += v < 0;
        a[j] = fabsf(v);
      }
      float distance[256], flip[256];
      for (int e = 0; e < 256; ++e) distance[e] = 0, flip[e] = FLT_MAX;
      for (int j = 0; j < 8; ++j) {
        const float* entry = entries + 256 * j;
        for (int e = 0; e < 256; ++e) {
          const float d = a[j] - entry[e], cost = 4 * a[j] * entry[e];
          distance[e] += d * d;
          flip[e] = cost < flip[e] ? cost : flip[e];
        }
      }
      int nearest = 0;
      for (int e = 0; e < 256; ++e) {
        distance[e] += ((negatives & 1) != odd[e]) ? flip[e] : 0;
        if (distance[e] < distance[nearest]) nearest = e;
      }
      if (distance[nearest] >= best) continue;
      best = distance[nearest];
      int at = -1;
      float smallest = FLT_MAX;
      if ((negatives & 1) != odd[nearest])
        for (int j = 0; j < 8; ++j)
          if (a[j] * entries[256 * j + nearest] < smallest) smallest = a[j] * entries[256 * j + nearest], at = j;
      for (int j = 0; j < 8; ++j)
        out[8 * i + j] = (j == at ? -sign[j] : sign[j]) * entries[256 * j + nearest] + offset;
    }
  }
}

// For each block x [count][C]: in each of `parts` equal parts of the bases, the one with the largest projection.
// bases [P * C][num] orthonormal columns (coordinate-major so that the loop over bases is the vector loop).
void largest_projections(const float* x, int64_t count, int C, int P, int64_t num, int parts, const float* bases,
                         int32_t* out) {
  enum { kTile = 1024 };
  for (int64_t i = 0; i < count; ++i) {
    const float* w = x + i * C;
    for (int part = 0; part < parts; ++part) {
      const int64_t begin = num * part / parts, end = num * (part + 1) / parts;
      float top = -1;
      int64_t at = begin;
      for (int64_t tile = begin; tile < end; tile += kTile) {
        const int64_t n = end - tile < kTile ? end - tile : kTile;
        float power[kTile] = {0}, dot[kTile];
        for (int p = 0; p < P; ++p) {
          for (int64_t s = 0; s < n; ++s) dot[s] = 0;
          for (int c = 0; c < C; ++c) {
            const float* base = bases + ((int64_t)p * C + c) * num + tile;
            for (int64_t s = 0; s < n; ++s) dot[s] += base[s] * w[c];
          }
          for (int64_t s = 0; s < n; ++s) power[s] += dot[s] * dot[s];
        }
        for (int64_t s = 0; s < n; ++s)
          if (power[s] > top) top = power[s], at = tile + s;
      }
      out[i * parts + part] = (int32_t)at;
    }
  }
}

static float half(float v) { return (float)(_Float16)v; }

// The scale that is stored: FP16, and never zero, as a group of zeros needs some scale.
static float stored_scale(float scale) {
  const float h = half(scale), tiny = 6e-8f;
  return fabsf(h) < tiny ? tiny : h;
}

static float grid_error(const float* x, int g, float scale, float zero, float top, const float* importance) {
  float sum = 0;
  for (int i = 0; i < g; ++i) {
    const float code = fminf(fmaxf(rintf(x[i] / scale + zero), 0), top);
    const float e = (code - zero) * scale - x[i];
    sum += e * e * (importance == NULL ? 1.0f : importance[i]);
  }
  return sum;
}

// grids.fit: for each row x [count][g] the clipping ratio out of shrink [num_shrink] with the least (weighted) squared error.
void fit_grids(const float* x, int64_t count, int g, int bits, int symmetric, const float* shrink, int num_shrink,
               const float* importance, float* scale, float* zero) {
  const int levels = 1 << bits;
  for (int64_t r = 0; r < count; ++r, x += g) {
    float low = 0, high = 0, best = FLT_MAX;
    for (int i = 0; i < g; ++i) {
      low = fminf(low, x[i]);
      high = fmaxf(high, x[i]);
    }
    const float reach = high > -low ? high : low;  // the value of largest magnitude, signed
    for (int k = 0; k < num_shrink; ++k) {
      for (int side = 0; side < (symmetric ? 2 : 1); ++side) {
        float s, z;
        if (!symmetric) {
          s = stored_scale((high - low) * shrink[k] / (float)(levels - 1));
          z = fminf(fmaxf(rintf(-low * shrink[k] / s), 0), (float)(levels - 1));
        } else {  // all levels used towards the extreme, or the extreme on the shorter side
          const int shorter = levels / 2 - 1 > 1 ? levels / 2 - 1 : 1;
          s = side == 0 ? stored_scale(-reach * shrink[k] / (float)(levels / 2))
                        : stored_scale(fabsf(reach) * shrink[k] / (float)shorter);
          z = (float)(levels / 2);
        }
        const float error = grid_error(x, g, s, z, (float)(levels - 1), importance);
        if ((k == 0 && side == 0) || error < best) {
          best = error;
          scale[r] = s;
          zero[r] = z;
        }
      }
    }
  }
}
