// Row-wise CPU kernels: each fuses what torch does in several passes over memory. Compiled by native.py on first use.
// A row's bits depend on that row alone: threads split whole rows, and a row is always walked the same way.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace {

using bf16 = uint16_t;

inline float load(float v) { return v; }
inline float load(bf16 v) { return __builtin_bit_cast(float, uint32_t(v) << 16); }
inline void store(float& to, float v) { to = v; }
inline void store(bf16& to, float v) {  // round to nearest even, NaN stays NaN
    uint32_t u = __builtin_bit_cast(uint32_t, v);
    uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    to = bf16(v == v ? rounded : 0x7fc0u);
}

// exp by 2^n * 2^f with a degree-6 polynomial (Cephes' expf coefficients), relative error below 2e-7; 0 below -87.
inline float fast_exp(float x) {
    float low = x < -87.0f ? -87.0f : x;
    float clipped = low > 88.0f ? 88.0f : low;
    float n = __builtin_rintf(clipped * 1.44269504f);
    float r = clipped - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    float scale = __builtin_bit_cast(float, (int32_t(n) + 127) << 23);
    float y = p * scale;
    y = x < -87.0f ? 0.0f : y;
    return x == x ? y : x;
}

template <typename T>
void rms_norm(const T* x, const T* w, float eps, int64_t one_plus, T* y, float* rstd, int64_t rows, int64_t dim, int64_t nt) {
#pragma omp parallel for num_threads(nt) schedule(static)
    for (int64_t i = 0; i < rows; ++i) {
        const T* xi = x + i * dim;
        T* yi = y + i * dim;
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < dim; ++j) sum += load(xi[j]) * load(xi[j]);
        float r = 1.0f / std::sqrt(sum / float(dim) + eps);
        rstd[i] = r;
#pragma omp simd
        for (int64_t j = 0; j < dim; ++j) {
            float n = load(xi[j]) * r;
            if (one_plus) {
                store(yi[j], n * (1.0f + load(w[j])));
            } else {  // the stock module rounds before it scales
                T rounded;
                store(rounded, n);
                store(yi[j], load(rounded) * load(w[j]));
            }
        }
    }
}

template <typename T>
void rms_norm_back(const T* dy, const T* x, const float* rstd, const T* w, int64_t one_plus, T* dx, int64_t rows,
                   int64_t dim, int64_t nt) {
#pragma omp parallel for num_threads(nt) schedule(static)
    for (int64_t i = 0; i < rows; ++i) {
        const T *gi = dy + i * dim, *xi = x + i * dim;
        T* di = dx + i * dim;
        float r = rstd[i], dot = 0.0f;
        float shift = one_plus ? 1.0f : 0.0f;
#pragma omp simd reduction(+ : dot)
        for (int64_t j = 0; j < dim; ++j) dot += load(gi[j]) * (shift + load(w[j])) * load(xi[j]);
        float c = dot * r * r * r / float(dim);
#pragma omp simd
        for (int64_t j = 0; j < dim; ++j)
            store(di[j], load(gi[j]) * (shift + load(w[j])) * r - load(xi[j]) * c);
    }
}

inline float sigmoid(float x) { return 1.0f / (1.0f + fast_exp(-x)); }

template <typename T>
void swiglu(const T* gate, const T* up, int64_t stride, T* h, int64_t rows, int64_t dim, int64_t nt) {
#pragma omp parallel for num_threads(nt) schedule(static)
    for (int64_t i = 0; i < rows; ++i) {
        const T *gi = gate + i * stride, *ui = up + i * stride;
        T* hi = h + i * dim;
#pragma omp simd
        for (int64_t j = 0; j < dim; ++j) {
            float g = load(gi[j]);
            T act;
            store(act, g * sigmoid(g));  // the stock module rounds the activation
            store(hi[j], load(act) * load(ui[j]));
        }
    }
}

template <typename T>
void swiglu_back(const T* dh, const T* gate, const T* up, int64_t stride, T* dgate, T* dup, int64_t out_stride,
                 int64_t rows, int64_t dim, int64_t nt) {
#pragma omp parallel for num_threads(nt) schedule(static)
    for (int64_t i = 0; i < rows; ++i) {
        const T *di = dh + i * dim, *gi = gate + i * stride, *ui = up + i * stride;
        T *dg = dgate + i * out_stride, *du = dup + i * out_stride;
#pragma omp simd
        for (int64_t j = 0; j < dim; ++j) {
            float g = load(gi[j]), s = sigmoid(g), d = load(di[j]);
            store(du[j], d * g * s);
            store(dg[j], d * load(ui[j]) * s * (1.0f + g * (1.0f - s)));
        }
    }
}

// Packed q|k|v rows -> padded bucket layout with rotary applied. place[p] is the packed row of padded place p.
// qkv [T, (heads + 2 kv) * width]; q out [kv, count, groups, length, width], k and v out [kv, count, length, width].
template <typename T>
void rotary_gather(const T* qkv, const T* cos, const T* sin, const int64_t* place, T* q, T* k, T* v, int64_t count,
                   int64_t length, int64_t kv, int64_t groups, int64_t width, int64_t nt) {
    int64_t heads = kv * groups, row_size = (heads + 2 * kv) * width, half = width / 2;
#pragma omp parallel for num_threads(nt) schedule(static)
    for (int64_t p = 0; p < count * length; ++p) {
        int64_t b = p / length, l = p % length, t = place[p];
        const T* row = qkv + t * row_size;
        const T *c = cos + t * width, *s = sin + t * width;
        for (int64_t h = 0; h < heads + 2 * kv; ++h) {
            const T* in = row + h * width;
            T* out;
            if (h < heads) {
                int64_t n = h / groups, g = h % groups;
                out = q + (((n * count + b) * groups + g) * length + l) * width;
            } else {
                int64_t n = h < heads + kv ? h - heads : h - heads - kv;
                out = (h < heads + kv ? k : v) + ((n * count + b) * length + l) * width;
            }
            if (h >= heads + kv) {
                std::memcpy(out, in, width * sizeof(T));
                continue;
            }
#pragma omp simd
            for (int64_t j = 0; j < half; ++j) {
                float lo = load(in[j]), hi = load(in[j + half]);
                store(out[j], lo * load(c[j]) - hi * load(s[j]));
                store(out[j + half], hi * load(c[j + half]) + lo * load(s[j + half]));
            }
        }
    }
}

// Inverse of the above for gradients; only real places are written. real[n] is a padded place, at[n] its packed row.
template <typename T>
void rotary_scatter(const T* dq, const T* dk, const T* dv, const T* cos, const T* sin, const int64_t* real,
                    const int64_t* at, T* dqkv, int64_t tokens, int64_t count, int64_t length, int64_t kv,
                    int64_t groups, int64_t width, int64_t nt) {
    int64_t heads = kv * groups, row_size = (heads + 2 * kv) * width, half = width / 2;
#pragma omp parallel for num_threads(nt) schedule(static)
    for (int64_t i = 0; i < tokens; ++i) {
        int64_t b = real[i] / length, l = real[i] % length, t = at[i];
        T* row = dqkv + t * row_size;
        const T *c = cos + t * width, *s = sin + t * width;
        for (int64_t h = 0; h < heads + 2 * kv; ++h) {
            T* out = row + h * width;
            const T* in;
            if (h < heads) {
                int64_t n = h / groups, g = h % groups;
                in = dq + (((n * count + b) * groups + g) * length + l) * width;
            } else {
                int64_t n = h < heads + kv ? h - heads : h - heads - kv;
                in = (h < heads + kv ? dk : dv) + ((n * count + b) * length + l) * width;
            }
            if (h >= heads + kv) {
                std::memcpy(out, in, width * sizeof(T));
                continue;
            }
#pragma omp simd
            for (int64_t j = 0; j < half; ++j) {
                float lo = load(in[j]), hi = load(in[j + half]);
                store(out[j], lo * load(c[j]) + hi * load(s[j + half]));
                store(out[j + half], hi * load(c[j + half]) - lo * load(s[j]));
            }
        }
    }
}

// Attention outputs between layouts: bucket [kv, count, groups, length, width] <-> packed [T, heads * width].
template <typename T>
void heads_scatter(const T* out, const int64_t* real, const int64_t* at, T* packed, int64_t tokens, int64_t count,
                   int64_t length, int64_t kv, int64_t groups, int64_t width, int64_t nt) {
#pragma omp parallel for num_threads(nt) schedule(static)
    for (int64_t i = 0; i < tokens; ++i) {
        int64_t b = real[i] / length, l = real[i] % length;
        for (int64_t h = 0; h < kv * groups; ++h)
            std::memcpy(packed + (at[i] * kv * groups + h) * width,
                        out + ((((h / groups) * count + b) * groups + h % groups) * length + l) * width,
                        width * sizeof(T));
    }
}

template <typename T>
void heads_gather(const T* packed, const int64_t* real, const int64_t* at, T* out, int64_t tokens, int64_t count,
                  int64_t length, int64_t kv, int64_t groups, int64_t width, int64_t nt) {
#pragma omp parallel for num_threads(nt) schedule(static)
    for (int64_t i = 0; i < tokens; ++i) {
        int64_t b = real[i] / length, l = real[i] % length;
        for (int64_t h = 0; h < kv * groups; ++h)
            std::memcpy(out + ((((h / groups) * count + b) * groups + h % groups) * length + l) * width,
                        packed + (at[i] * kv * groups + h) * width, width * sizeof(T));
    }
}

// scores [matrices * groups * length, length] -> probabilities in place; row r of a matrix sees columns 0..r only.
// Loops run to the next multiple of 16 columns with the rest masked: short rows had spent most time in scalar tails.
template <typename T>
void causal_softmax(T* scores, float scale, int64_t window, int64_t rows, int64_t length, int64_t nt) {
    const float lowest = -std::numeric_limits<float>::infinity();
#pragma omp parallel num_threads(nt)
    {
        std::vector<float> held(length);
        float* e = held.data();
#pragma omp for schedule(static)
        for (int64_t i = 0; i < rows; ++i) {
            T* si = scores + i * length;
            int32_t end = int32_t(i % length) + 1, start = window && end > window ? end - int32_t(window) : 0;
            int32_t stop = (end + 15) / 16 * 16 < length ? (end + 15) / 16 * 16 : int32_t(length);
            float top = lowest;
#pragma omp simd reduction(max : top)
            for (int32_t j = 0; j < stop; ++j) {
                float v = j < end && j >= start ? load(si[j]) : lowest;
                e[j] = v;
                top = v > top ? v : top;
            }
            float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
            for (int32_t j = 0; j < stop; ++j) {
                float p = fast_exp((e[j] - top) * scale);
                e[j] = p;
                sum += p;
            }
            float inverse = 1.0f / sum;
#pragma omp simd
            for (int32_t j = 0; j < stop; ++j) store(si[j], e[j] * inverse);
            for (int64_t j = stop; j < length; ++j) store(si[j], 0.0f);
        }
    }
}

// dp (gradient of the probabilities) -> gradient of the unscaled scores, in place: scale * p * (dp - sum(dp * p)).
template <typename T>
void causal_softmax_back(T* dp, const T* probs, float scale, int64_t rows, int64_t length, int64_t nt) {
#pragma omp parallel for num_threads(nt) schedule(static)
    for (int64_t i = 0; i < rows; ++i) {
        T* di = dp + i * length;
        const T* pi = probs + i * length;
        int32_t end = int32_t(i % length) + 1;
        int32_t stop = (end + 15) / 16 * 16 < length ? (end + 15) / 16 * 16 : int32_t(length);
        float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
        for (int32_t j = 0; j < stop; ++j) dot += j < end ? load(di[j]) * load(pi[j]) : 0.0f;
#pragma omp simd
        for (int32_t j = 0; j < stop; ++j)
            store(di[j], j < end ? scale * load(pi[j]) * (load(di[j]) - dot) : 0.0f);
        for (int64_t j = stop; j < length; ++j) store(di[j], 0.0f);
    }
}

// logits [rows, vocab] -> loss per row; when weights are given the logits become weight * (softmax - onehot).
template <typename T>
void cross_entropy(T* logits, const int64_t* target, const float* weight, float* loss, int64_t rows, int64_t vocab,
                   int64_t nt) {
#pragma omp parallel for num_threads(nt) schedule(static)
    for (int64_t i = 0; i < rows; ++i) {
        T* li = logits + i * vocab;
        float top = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : top)
        for (int64_t j = 0; j < vocab; ++j) {
            float v = load(li[j]);
            top = v > top ? v : top;
        }
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < vocab; ++j) sum += fast_exp(load(li[j]) - top);
        float hit = load(li[target[i]]);
        loss[i] = std::log(sum) + top - hit;
        if (!weight) continue;
        float w = weight[i], inverse = w / sum;
#pragma omp simd
        for (int64_t j = 0; j < vocab; ++j) store(li[j], fast_exp(load(li[j]) - top) * inverse);
        float p = fast_exp(hit - top) * inverse - w;
        store(li[target[i]], p);
    }
}

// into (fp32) = or += grad, element by element.
template <typename T>
void accumulate(float* into, const T* grad, int64_t size, int64_t is_first, int64_t) {
    if (is_first) {
#pragma omp simd
        for (int64_t j = 0; j < size; ++j) into[j] = load(grad[j]);
    } else {
#pragma omp simd
        for (int64_t j = 0; j < size; ++j) into[j] += load(grad[j]);
    }
}

}  // namespace

#define EXPORT(NAME, PARAMS, ARGS, T, SUFFIX) \
    extern "C" void NAME##_##SUFFIX PARAMS(T) { NAME<T> ARGS; }
#define BOTH(NAME, PARAMS, ARGS)             \
    EXPORT(NAME, PARAMS, ARGS, float, float) \
    EXPORT(NAME, PARAMS, ARGS, bf16, bf16)

#define P1(T) (const T* x, const T* w, float eps, int64_t one_plus, T* y, float* rstd, int64_t rows, int64_t dim, int64_t nt)
BOTH(rms_norm, P1, (x, w, eps, one_plus, y, rstd, rows, dim, nt))
#define P2(T) \
    (const T* dy, const T* x, const float* rstd, const T* w, int64_t one_plus, T* dx, int64_t rows, int64_t dim, int64_t nt)
BOTH(rms_norm_back, P2, (dy, x, rstd, w, one_plus, dx, rows, dim, nt))
#define P3(T) (const T* gate, const T* up, int64_t stride, T* h, int64_t rows, int64_t dim, int64_t nt)
BOTH(swiglu, P3, (gate, up, stride, h, rows, dim, nt))
#define P4(T)                                                                                                     \
    (const T* dh, const T* gate, const T* up, int64_t stride, T* dgate, T* dup, int64_t out_stride, int64_t rows, \
     int64_t dim, int64_t nt)
BOTH(swiglu_back, P4, (dh, gate, up, stride, dgate, dup, out_stride, rows, dim, nt))
#define P5(T)                                                                                                       \
    (const T* qkv, const T* cos, const T* sin, const int64_t* place, T* q, T* k, T* v, int64_t count, int64_t length, \
     int64_t kv, int64_t groups, int64_t width, int64_t nt)
BOTH(rotary_gather, P5, (qkv, cos, sin, place, q, k, v, count, length, kv, groups, width, nt))
#define P6(T)                                                                                                     \
    (const T* dq, const T* dk, const T* dv, const T* cos, const T* sin, const int64_t* real, const int64_t* at,   \
     T* dqkv, int64_t tokens, int64_t count, int64_t length, int64_t kv, int64_t groups, int64_t width, int64_t nt)
BOTH(rotary_scatter, P6, (dq, dk, dv, cos, sin, real, at, dqkv, tokens, count, length, kv, groups, width, nt))
#define P7(T)                                                                                                     \
    (const T* from, const int64_t* real, const int64_t* at, T* to, int64_t tokens, int64_t count, int64_t length, \
     int64_t kv, int64_t groups, int64_t width, int64_t nt)
BOTH(heads_scatter, P7, (from, real, at, to, tokens, count, length, kv, groups, width, nt))
BOTH(heads_gather, P7, (from, real, at, to, tokens, count, length, kv, groups, width, nt))
#define P8(T) (T* scores, float scale, int64_t window, int64_t rows, int64_t length, int64_t nt)
BOTH(causal_softmax, P8, (scores, scale, window, rows, length, nt))
#define P9(T) (T* dp, const T* probs, float scale, int64_t rows, int64_t length, int64_t nt)
BOTH(causal_softmax_back, P9, (dp, probs, scale, rows, length, nt))
#define P10(T) \
    (T* logits, const int64_t* target, const float* weight, float* loss, int64_t rows, int64_t vocab, int64_t nt)
BOTH(cross_entropy, P10, (logits, target, weight, loss, rows, vocab, nt))
#define P11(T) (float* into, const T* grad, int64_t size, int64_t is_first, int64_t nt)
BOTH(accumulate, P11, (into, grad, size, is_first, nt))
