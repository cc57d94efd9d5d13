// Stands in for SoapySDR in tests: one device, `driver=fake`, whose samples count.
//
// Arguments: `time=1` stamps samples with the device's clock; `fail=N` fails the N-th read; `closed=1` gives no stream.

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef ABI
#define ABI "0.8"
#endif

enum { TIMEOUT = -1, STREAM_ERROR = -2, OVERFLOW = -4, NOT_SUPPORTED = -5, MOST = 640 };

struct device {
    double rate;
    bool timed, closed, active;
    int reads, fail;
    long long next;
};

static _Thread_local const char *error = "";

const char *SoapySDR_getABIVersion(void) { return ABI; }
const char *SoapySDR_getLibVersion(void) { return "0.8.1-fake"; }
const char *SoapySDRDevice_lastError(void) { return error; }

const char *SoapySDR_errToStr(int code) {
    return code == STREAM_ERROR ? "stream error" : code == NOT_SUPPORTED ? "not supported" : "unknown";
}

struct device *SoapySDRDevice_makeStrArgs(const char *arguments) {
    if (strstr(arguments, "driver=fake") == NULL) {
        error = "no match";
        return NULL;
    }
    struct device *device = calloc(1, sizeof *device);
    const char *fail = strstr(arguments, "fail=");
    device->fail = fail ? atoi(fail + 5) : 0;
    device->timed = strstr(arguments, "time=1") != NULL;
    device->closed = strstr(arguments, "closed=1") != NULL;
    return device;
}

int SoapySDRDevice_unmake(struct device *device) {
    free(device);
    return 0;
}

int SoapySDRDevice_setAntenna(struct device *device, int direction, size_t channel, const char *name) {
    if (strcmp(name, "RX") == 0) return 0;
    error = "no such antenna";
    return NOT_SUPPORTED;
}

bool SoapySDRDevice_hasGainMode(const struct device *device, int direction, size_t channel) { return true; }
int SoapySDRDevice_setGainMode(struct device *device, int direction, size_t channel, bool automatic) { return 0; }
int SoapySDRDevice_setGain(struct device *device, int direction, size_t channel, double value) { return 0; }
int SoapySDRDevice_setFrequencyCorrection(struct device *device, int direction, size_t channel, double value) {
    return 0;
}

int SoapySDRDevice_setFrequency(struct device *device, int direction, size_t channel, double hz, const void *none) {
    return direction == 1 && none == NULL && hz > 0 ? 0 : NOT_SUPPORTED;
}

int SoapySDRDevice_setSampleRate(struct device *device, int direction, size_t channel, double rate) {
    device->rate = rate > 2e6 ? 2e6 : rate;
    return 0;
}

double SoapySDRDevice_getSampleRate(const struct device *device, int direction, size_t channel) { return device->rate; }

void *SoapySDRDevice_setupStream(struct device *device, int direction, const char *format, const size_t *channels,
                                 size_t count, const void *none) {
    if (device->closed || strcmp(format, "CF32") != 0 || count != 1 || channels[0] != 0) {
        error = "busy";
        return NULL;
    }
    return device;
}

int SoapySDRDevice_closeStream(struct device *device, void *stream) { return 0; }
size_t SoapySDRDevice_getStreamMTU(const struct device *device, void *stream) { return MOST; }

int SoapySDRDevice_activateStream(struct device *device, void *stream, int flags, long long time, size_t count) {
    device->active = true;
    return 0;
}

int SoapySDRDevice_deactivateStream(struct device *device, void *stream, int flags, long long time) {
    device->active = false;
    return 0;
}

#ifndef HALF
int SoapySDRDevice_readStream(struct device *device, void *stream, void *const *buffers, size_t count, int *flags,
                              long long *time, long patience) {
    if (!device->active || stream != device) return STREAM_ERROR;
    int read = ++device->reads;
    if (read == device->fail) return STREAM_ERROR;
    if (read == 3) return TIMEOUT;
    if (read == 5) {
        device->next += 777;
        return OVERFLOW;
    }
    size_t n = count < MOST ? count : MOST;
    usleep((unsigned)(1e6 * n / device->rate));
    float *out = buffers[0];
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = (float)((device->next + (long long)i) % 4096) / 4096;
        out[2 * i + 1] = -0.5f;
    }
    if (device->timed) {
        *flags = 1 << 2;
        *time = 1000000000LL + (long long)(device->next * 1e9 / device->rate);
    }
    device->next += (long long)n;
    return (int)n;
}
#endif
