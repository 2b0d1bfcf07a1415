___INFO___

{
  "type": "TAG",
  "id": "cvt_temp_public_id",
  "version": 1,
  "securityGroups": [],
  "displayName": "Headwater",
  "brand": {
    "id": "brand_dummy",
    "displayName": "Headwater"
  },
  "description": "Sends each event with its raw consent signals to a Headwater collector. It decides nothing about consent: fire it on all events.",
  "containerContexts": [
    "SERVER"
  ]
}


___TEMPLATE_PARAMETERS___

[
  {
    "type": "TEXT",
    "name": "collectorUrl",
    "displayName": "Collector URL",
    "simpleValueType": true,
    "help": "Scheme and host of the collector, for example https://collect.example.com. The tag adds /v1/events.",
    "valueValidators": [
      {
        "type": "NON_EMPTY"
      },
      {
        "type": "REGEX",
        "args": [
          "^https://[^/?#:\\s]+/?$"
        ],
        "errorMessage": "An https address without port and path."
      }
    ]
  },
  {
    "type": "TEXT",
    "name": "writeKey",
    "displayName": "Write key",
    "simpleValueType": true,
    "help": "The source's key, as headwater keys create printed it.",
    "valueValidators": [
      {
        "type": "NON_EMPTY"
      }
    ]
  },
  {
    "type": "TEXT",
    "name": "timeoutMs",
    "displayName": "Timeout in milliseconds",
    "simpleValueType": true,
    "defaultValue": 2000,
    "valueValidators": [
      {
        "type": "POSITIVE_NUMBER"
      }
    ]
  },
  {
    "type": "CHECKBOX",
    "name": "relayIdCookie",
    "checkboxText": "Relay the id cookie hw_id",
    "simpleValueType": true,
    "help": "Sends the visitor's cookie hw_id to the collector, and sets or deletes it as the collector answers. The collector must run with --id-cookie."
  }
]


___SANDBOXED_JS_FOR_SERVER___

const JSON = require('JSON');
const Object = require('Object');
const generateRandom = require('generateRandom');
const getAllEventData = require('getAllEventData');
const getCookieValues = require('getCookieValues');
const getRequestHeader = require('getRequestHeader');
const getTimestampMillis = require('getTimestampMillis');
const getType = require('getType');
const logToConsole = require('logToConsole');
const makeInteger = require('makeInteger');
const makeString = require('makeString');
const sendHttpRequest = require('sendHttpRequest');
const setCookie = require('setCookie');

const TIMEOUT_MS = 2000;
const BIGGEST_RANDOM = 2147483647;

// The collector's header for the id cookie, of the request and of its answer, and that of its life in seconds.
const ID_COOKIE = 'X-Headwater-Id-Cookie';
const ID_COOKIE_ANSWER = 'x-headwater-id-cookie';
const ID_COOKIE_AGE = 'x-headwater-id-cookie-max-age';

// Credentials of the visitor's request: a client may have put all its headers into the event data.
const NEVER_SENT = ['authorization', 'proxy-authorization', 'cookie', 'set-cookie'];

// The collector's name of each consent signal, and where event data carries it; values that differ are all sent.
const SIGNALS = [
  { name: 'gcs', from: ['x-ga-gcs', 'gcs'] },
  { name: 'gcd', from: ['x-ga-gcd', 'gcd'] },
  { name: 'npa', from: ['x-ga-npa'] },
  { name: 'dma', from: ['x-ga-dma'] },
  { name: 'dma_cps', from: ['x-ga-dma_cps'] },
  { name: 'tcfd', from: ['x-ga-tcfd'] },
  { name: 'tc_string', from: ['tc_string', 'gdpr_consent'] },
  { name: 'tc_event_status', from: ['tc_event_status'] },
  { name: 'gdpr_applies', from: ['gdpr_applies', 'gdpr'] },
  { name: 'gpp', from: ['gpp'] },
  { name: 'gpc', from: ['gpc'] }
];

// Fields that Google Analytics allows as arrays; the collector takes one.
const ONE_OF_SEVERAL = ['email', 'email_address', 'phone', 'phone_number'];

const absent = (value) => value === undefined || value === null || value === '';

const isScalar = (value) => ['string', 'number', 'boolean'].indexOf(getType(value)) >= 0;

const failed = (why) => {
  // Never a value of the event: logs are kept longer than consent.
  logToConsole('Headwater: ' + why);
  data.gtmOnFailure();
};

const withoutCredentials = (value) => {
  const type = getType(value);
  if (type === 'array') return value.map((one) => withoutCredentials(one));
  if (type !== 'object') return value;
  const kept = {};
  Object.keys(value).forEach((key) => {
    if (NEVER_SENT.indexOf(key.toLowerCase()) < 0) kept[key] = withoutCredentials(value[key]);
  });
  return kept;
};

// A signal that is there with another value is sent beside it: the consent stage takes the strictest. Scalars are sent as text,
// so that the collector sees true and false as they were said; anything else as it is, for it must not vanish.
const put = (signals, name, value) => {
  if (value === undefined || value === '') return;
  const text = isScalar(value) ? makeString(value) : value;
  let key = name;
  let count = 1;
  while (signals[key] !== undefined && signals[key] !== text) {
    count = count + 1;
    key = name + '#' + count;
  }
  signals[key] = text;
};

const addTo = (signals, prefix, said) => {
  Object.keys(said).forEach((name) => put(signals, prefix + name, said[name]));
};

// Moves what event data says of consent into one object, unread.
const takeSignals = (event) => {
  const signals = {};
  put(signals, 'gpc', getRequestHeader('Sec-GPC'));
  if (getType(event.consent) === 'object') addTo(signals, '', event.consent);
  else put(signals, 'consent', event.consent);
  if (getType(event.cmp) === 'object') {
    addTo(signals, 'cmp.', event.cmp);
    event.cmp = undefined;
  }
  SIGNALS.forEach((signal) => {
    signal.from.forEach((field) => {
      if (!isScalar(event[field])) return;
      put(signals, signal.name, event[field]);
      event[field] = undefined;
    });
  });
  if (absent(signals.tc_string)) {
    const kept = getCookieValues('euconsent-v2') || [];
    kept.forEach((value) => put(signals, 'tc_string', value));
  }
  return signals;
};

// What a load balancer writes for a place that it does not know.
const NOWHERE = ['ZZ', 'XX', 'T1'];

const placeOf = (country, region) => {
  if (absent(country) || NOWHERE.indexOf(makeString(country).toUpperCase()) >= 0) return undefined;
  return absent(region) ? { country: country } : { country: country, region: region };
};

// Where the visitor's request came from, as the load balancer in front of the container says. The container's own place is not sent.
const takePlace = (event) => {
  const place = placeOf(getRequestHeader('X-Gclb-Country'), getRequestHeader('X-Gclb-Region')) ||
    placeOf(getRequestHeader('X-AppEngine-Country'), getRequestHeader('X-AppEngine-Region')) ||
    placeOf(getRequestHeader('CF-IPCountry'));
  if (place === undefined) return;
  // Beside what the event says itself: two places that disagree are no place to the collector.
  if (absent(event.event_location)) event.event_location = place;
  else if (absent(event.user_location)) event.user_location = place;
};

const takeFirst = (person) => {
  ONE_OF_SEVERAL.forEach((field) => {
    if (getType(person[field]) === 'array') person[field] = person[field][0];
  });
};

const prepare = (event) => {
  event.consent = takeSignals(event);
  takePlace(event);
  if (getType(event.user_data) === 'object') takeFirst(event.user_data);
  const now = getTimestampMillis();
  if (absent(event.event_ts) && absent(event.timestamp)) event.event_ts = now;
  if (absent(event.event_id)) {
    event.event_id = [now, generateRandom(0, BIGGEST_RANDOM), generateRandom(0, BIGGEST_RANDOM)].join('-');
  }
  if (absent(event.user_agent)) event.user_agent = getRequestHeader('User-Agent');
  if (absent(event.tag_version)) event.tag_version = 'sgtm-1';
  return event;
};

// The collector decides by the event's consent; without its header the cookie stays as it is.
const relayIdCookie = (answer) => {
  const headers = answer.headers || {};
  const value = headers[ID_COOKIE_ANSWER];
  if (!data.relayIdCookie || value === undefined) return;
  setCookie('hw_id', value, {
    domain: 'auto', path: '/', 'max-age': makeInteger(headers[ID_COOKIE_AGE]) || 0, secure: true, httpOnly: true, sameSite: 'lax'
  });
};

const requestHeaders = () => {
  const headers = { 'Content-Type': 'application/json', 'Authorization': 'Bearer ' + data.writeKey };
  if (data.relayIdCookie) headers[ID_COOKIE] = (getCookieValues('hw_id') || [])[0] || '';
  return headers;
};

const send = (event) => {
  const base = makeString(data.collectorUrl);
  const url = (base.charAt(base.length - 1) === '/' ? base.slice(0, -1) : base) + '/v1/events';
  const options = {
    method: 'POST',
    headers: requestHeaders(),
    timeout: makeInteger(data.timeoutMs) || TIMEOUT_MS
  };
  // In a list, because an event may itself have a field named events.
  sendHttpRequest(url, options, JSON.stringify({ events: [event] })).then((answer) => {
    if (answer.statusCode === 200) {
      relayIdCookie(answer);
      data.gtmOnSuccess();
    } else failed('the collector answered ' + answer.statusCode);
  }, () => failed('the collector did not answer in time'));
};

const said = withoutCredentials(getAllEventData());
if (getType(said) !== 'object') failed('there is no event data');
else if (getType(said.event_name) !== 'string' || said.event_name.trim() === '') failed('the event has no event_name');
else send(prepare(said));


___SERVER_PERMISSIONS___

[
  {
    "instance": {
      "key": {
        "publicId": "read_event_data",
        "versionId": "1"
      },
      "param": [
        {
          "key": "eventDataAccess",
          "value": {
            "type": 1,
            "string": "any"
          }
        }
      ]
    },
    "clientAnnotations": {
      "isEditedByUser": true
    },
    "isRequired": true
  },
  {
    "instance": {
      "key": {
        "publicId": "read_request",
        "versionId": "1"
      },
      "param": [
        {
          "key": "requestAccess",
          "value": {
            "type": 1,
            "string": "specific"
          }
        },
        {
          "key": "headersAllowed",
          "value": {
            "type": 8,
            "boolean": true
          }
        },
        {
          "key": "headerAccess",
          "value": {
            "type": 1,
            "string": "specific"
          }
        },
        {
          "key": "headerWhitelist",
          "value": {
            "type": 2,
            "listItem": [
              {
                "type": 3,
                "mapKey": [
                  {
                    "type": 1,
                    "string": "headerName"
                  }
                ],
                "mapValue": [
                  {
                    "type": 1,
                    "string": "sec-gpc"
                  }
                ]
              },
              {
                "type": 3,
                "mapKey": [
                  {
                    "type": 1,
                    "string": "headerName"
                  }
                ],
                "mapValue": [
                  {
                    "type": 1,
                    "string": "user-agent"
                  }
                ]
              },
              {
                "type": 3,
                "mapKey": [
                  {
                    "type": 1,
                    "string": "headerName"
                  }
                ],
                "mapValue": [
                  {
                    "type": 1,
                    "string": "cf-ipcountry"
                  }
                ]
              },
              {
                "type": 3,
                "mapKey": [
                  {
                    "type": 1,
                    "string": "headerName"
                  }
                ],
                "mapValue": [
                  {
                    "type": 1,
                    "string": "x-appengine-region"
                  }
                ]
              },
              {
                "type": 3,
                "mapKey": [
                  {
                    "type": 1,
                    "string": "headerName"
                  }
                ],
                "mapValue": [
                  {
                    "type": 1,
                    "string": "x-appengine-country"
                  }
                ]
              },
              {
                "type": 3,
                "mapKey": [
                  {
                    "type": 1,
                    "string": "headerName"
                  }
                ],
                "mapValue": [
                  {
                    "type": 1,
                    "string": "x-gclb-region"
                  }
                ]
              },
              {
                "type": 3,
                "mapKey": [
                  {
                    "type": 1,
                    "string": "headerName"
                  }
                ],
                "mapValue": [
                  {
                    "type": 1,
                    "string": "x-gclb-country"
                  }
                ]
              }
            ]
          }
        }
      ]
    },
    "clientAnnotations": {
      "isEditedByUser": true
    },
    "isRequired": true
  },
  {
    "instance": {
      "key": {
        "publicId": "get_cookies",
        "versionId": "1"
      },
      "param": [
        {
          "key": "cookieAccess",
          "value": {
            "type": 1,
            "string": "specific"
          }
        },
        {
          "key": "cookieNames",
          "value": {
            "type": 2,
            "listItem": [
              {
                "type": 1,
                "string": "euconsent-v2"
              },
              {
                "type": 1,
                "string": "hw_id"
              }
            ]
          }
        }
      ]
    },
    "clientAnnotations": {
      "isEditedByUser": true
    },
    "isRequired": true
  },
  {
    "instance": {
      "key": {
        "publicId": "set_cookies",
        "versionId": "1"
      },
      "param": [
        {
          "key": "allowedCookies",
          "value": {
            "type": 2,
            "listItem": [
              {
                "type": 3,
                "mapKey": [
                  {
                    "type": 1,
                    "string": "name"
                  },
                  {
                    "type": 1,
                    "string": "domain"
                  },
                  {
                    "type": 1,
                    "string": "path"
                  },
                  {
                    "type": 1,
                    "string": "secure"
                  },
                  {
                    "type": 1,
                    "string": "session"
                  }
                ],
                "mapValue": [
                  {
                    "type": 1,
                    "string": "hw_id"
                  },
                  {
                    "type": 1,
                    "string": "*"
                  },
                  {
                    "type": 1,
                    "string": "/"
                  },
                  {
                    "type": 1,
                    "string": "secure"
                  },
                  {
                    "type": 1,
                    "string": "any"
                  }
                ]
              }
            ]
          }
        }
      ]
    },
    "clientAnnotations": {
      "isEditedByUser": true
    },
    "isRequired": true
  },
  {
    "instance": {
      "key": {
        "publicId": "send_http",
        "versionId": "1"
      },
      "param": [
        {
          "key": "allowedUrls",
          "value": {
            "type": 1,
            "string": "specific"
          }
        },
        {
          "key": "urls",
          "value": {
            "type": 2,
            "listItem": [
              {
                "type": 1,
                "string": "https://*/v1/events"
              }
            ]
          }
        }
      ]
    },
    "clientAnnotations": {
      "isEditedByUser": true
    },
    "isRequired": true
  },
  {
    "instance": {
      "key": {
        "publicId": "logging",
        "versionId": "1"
      },
      "param": [
        {
          "key": "environments",
          "value": {
            "type": 1,
            "string": "debug"
          }
        }
      ]
    },
    "clientAnnotations": {
      "isEditedByUser": true
    },
    "isRequired": true
  }
]


___TESTS___

scenarios:
- name: Consent Mode is forwarded as it came
  code: |-
    world.event['x-ga-gcs'] = 'G110';
    world.event['x-ga-gcd'] = '13r3q3q3q5l1';
    world.event['x-ga-npa'] = '1';
    world.event['x-ga-dma'] = '1';
    world.event['x-ga-dma_cps'] = 'sypham';
    runCode(settings);
    assertThat(sent().consent).isEqualTo({
      gcs: 'G110', gcd: '13r3q3q3q5l1', npa: '1', dma: '1', dma_cps: 'sypham'
    });
    assertThat(sent()['x-ga-gcs']).isUndefined();
    assertThat(sent()['x-ga-page_id']).isEqualTo(17);
    assertApi('gtmOnSuccess').wasCalled();
    assertApi('gtmOnFailure').wasNotCalled();
- name: A TC string comes with its event status and whether GDPR applies
  code: |-
    world.event.tc_string = 'CPEVENT';
    world.event.tc_event_status = 'useractioncomplete';
    world.event.gdpr_applies = true;
    world.cookies['euconsent-v2'] = ['CPCOOKIE'];
    runCode(settings);
    assertThat(sent().consent).isEqualTo({
      tc_string: 'CPEVENT', tc_event_status: 'useractioncomplete', gdpr_applies: 'true'
    });
- name: A TC string is taken from its cookie where the event has none
  code: |-
    world.cookies['euconsent-v2'] = ['CPCOOKIE'];
    runCode(settings);
    assertThat(sent().consent).isEqualTo({tc_string: 'CPCOOKIE'});
- name: That GDPR does not apply is said in words that stay
  code: |-
    world.event.gdpr_applies = false;
    runCode(settings);
    assertThat(sent().consent).isEqualTo({gdpr_applies: 'false'});
- name: A GPP string is forwarded as it came
  code: |-
    world.event.gpp = 'DBABLA~BVVqAAAAAgA.QA';
    runCode(settings);
    assertThat(sent().consent).isEqualTo({gpp: 'DBABLA~BVVqAAAAAgA.QA'});
- name: Sec-GPC of the visitor is forwarded beside what the page says
  code: |-
    world.headers['sec-gpc'] = '1';
    world.event.gpc = '0';
    runCode(settings);
    assertThat(sent().consent).isEqualTo({gpc: '1', 'gpc#2': '0'});
- name: Two values of one signal are both forwarded
  code: |-
    world.event['x-ga-gcs'] = 'G111';
    world.event.gcs = 'G100';
    world.event.consent = {gcs: 'G101', 'cmp.ads': 'denied'};
    world.event.cmp = {ads: true};
    world.event.tc_string = 'CPONE';
    world.event.gdpr_consent = 'CPTWO';
    runCode(settings);
    assertThat(sent().consent).isEqualTo({
      gcs: 'G101', 'cmp.ads': 'denied', 'cmp.ads#2': 'true', 'gcs#2': 'G111', 'gcs#3': 'G100', tc_string: 'CPONE',
      'tc_string#2': 'CPTWO'
    });
- name: Empty texts are no signals, and the same value is sent once
  code: |-
    world.headers['sec-gpc'] = '';
    world.event['x-ga-gcs'] = '';
    world.event.gcs = 'G100';
    world.event.consent = {gcs: 'G100', gpp: '', 'cmp.ads': 'denied'};
    runCode(settings);
    assertThat(sent().consent).isEqualTo({gcs: 'G100', 'cmp.ads': 'denied'});
- name: Where the visitor is comes from the load balancer of the container
  code: |-
    world.headers['x-gclb-country'] = 'US';
    world.headers['x-gclb-region'] = 'USCA';
    world.headers['x-appengine-country'] = 'DE';
    runCode(settings);
    assertThat(sent().event_location).isEqualTo({country: 'US', region: 'USCA'});
    assertThat(sent().user_location).isUndefined();
- name: The place may come from App Engine
  code: |-
    world.headers['x-gclb-country'] = 'ZZ';
    world.headers['x-appengine-country'] = 'us';
    world.headers['x-appengine-region'] = 'ca';
    runCode(settings);
    assertThat(sent().event_location).isEqualTo({country: 'us', region: 'ca'});
- name: The place may come from Cloudflare
  code: |-
    world.headers['cf-ipcountry'] = 'FR';
    runCode(settings);
    assertThat(sent().event_location).isEqualTo({country: 'FR'});
- name: A place that the event has stands beside the load balancer's
  code: |-
    world.headers['cf-ipcountry'] = 'DE';
    world.event.event_location = {country: 'US', city: 'Austin'};
    runCode(settings);
    assertThat(sent().event_location).isEqualTo({country: 'US', city: 'Austin'});
    assertThat(sent().user_location).isEqualTo({country: 'DE'});
- name: Without a place the tag claims none
  code: |-
    world.headers['cf-ipcountry'] = 'T1';
    runCode(settings);
    assertThat(sent().event_location).isUndefined();
    assertThat(sent().user_location).isUndefined();
- name: A consent platform's choices are forwarded under cmp
  code: |-
    world.event.cmp = {analytics: true, marketing: 'denied', vendors: ['x']};
    world.event.consent = {'cmp.preferences': '1', platform: 'acme'};
    runCode(settings);
    assertThat(sent().consent).isEqualTo({
      'cmp.preferences': '1', platform: 'acme', 'cmp.analytics': 'true', 'cmp.marketing': 'denied', 'cmp.vendors': ['x']
    });
    assertThat(sent().cmp).isUndefined();
- name: All signals together arrive side by side
  code: |-
    world.headers['sec-gpc'] = '1';
    world.event['x-ga-gcs'] = 'G111';
    world.event['x-ga-gcd'] = '13t3t3t3t5l1';
    world.event.tc_string = 'CPEVENT';
    world.event.tc_event_status = 'tcloaded';
    world.event.gdpr_applies = 1;
    world.event.gpp = 'DBABMA~CPEVENT';
    world.event.cmp = {marketing: false};
    world.event.user_data = {email_address: ['ada@example.org', 'second@example.org']};
    runCode(settings);
    assertThat(sent().consent).isEqualTo({
      gcs: 'G111', gcd: '13t3t3t3t5l1', tc_string: 'CPEVENT', tc_event_status: 'tcloaded', gdpr_applies: '1',
      gpp: 'DBABMA~CPEVENT', gpc: '1', 'cmp.marketing': 'false'
    });
    assertThat(sent().user_data.email_address).isEqualTo('ada@example.org');
- name: Without signals the tag still sends and claims nothing
  code: |-
    runCode(settings);
    assertThat(sent().consent).isEqualTo({});
    assertApi('gtmOnSuccess').wasCalled();
- name: An event without a name is not sent
  code: |-
    world.event.event_name = undefined;
    runCode(settings);
    assertApi('sendHttpRequest').wasNotCalled();
    assertApi('gtmOnFailure').wasCalled();
    assertApi('gtmOnSuccess').wasNotCalled();
- name: An event whose name is no text is not sent
  code: |-
    world.event.event_name = {of: 'what'};
    runCode(settings);
    assertApi('sendHttpRequest').wasNotCalled();
    assertApi('gtmOnFailure').wasCalled();
- name: Event data that is no object is not sent
  code: |-
    world.event = undefined;
    runCode(settings);
    assertApi('sendHttpRequest').wasNotCalled();
    assertApi('gtmOnFailure').wasCalled();
- name: A consent field that is no object is a signal like the others
  code: |-
    world.event.consent = 'denied';
    world.event['x-ga-gcs'] = 'G100';
    world.headers['sec-gpc'] = '1';
    runCode(settings);
    assertThat(sent().consent).isEqualTo({gpc: '1', consent: 'denied', gcs: 'G100'});
    assertApi('gtmOnSuccess').wasCalled();
- name: What is no text in a consent field is forwarded as it is
  code: |-
    world.event.consent = {'cmp.ads': null, ads: {a: [1]}, 'cmp.stats': 0};
    world.event['x-ga-gcs'] = null;
    runCode(settings);
    assertThat(sent().consent).isEqualTo({'cmp.ads': null, ads: {a: [1]}, 'cmp.stats': '0'});
    assertThat(sent()['x-ga-gcs']).isNull();
- name: An answer of 500 is a failure
  code: |-
    world.answer = {statusCode: 500};
    runCode(settings);
    assertApi('sendHttpRequest').wasCalled();
    assertApi('gtmOnFailure').wasCalled();
    assertApi('gtmOnSuccess').wasNotCalled();
- name: An answer of 204 is a failure, for only 200 says that the event is safe
  code: |-
    world.answer = {statusCode: 204};
    runCode(settings);
    assertApi('gtmOnFailure').wasCalled();
    assertApi('gtmOnSuccess').wasNotCalled();
- name: No answer in time is a failure
  code: |-
    world.answer = undefined;
    runCode(settings);
    assertThat(world.options.timeout).isEqualTo(2000);
    assertApi('gtmOnFailure').wasCalled();
    assertApi('gtmOnSuccess').wasNotCalled();
- name: The timeout is the one that was set, and 2 s where none was
  code: |-
    settings.timeoutMs = '750';
    runCode(settings);
    assertThat(world.options.timeout).isEqualTo(750);
    settings.timeoutMs = undefined;
    runCode(settings);
    assertThat(world.options.timeout).isEqualTo(2000);
- name: An event's own id and time are kept
  code: |-
    world.event.event_id = 'e-1';
    world.event.event_ts = 1790000000123;
    runCode(settings);
    assertThat(sent().event_id).isEqualTo('e-1');
    assertThat(sent().event_ts).isEqualTo(1790000000123);
- name: An id and a time are made where the event has none
  code: |-
    runCode(settings);
    assertThat(sent().event_id).isEqualTo('1790000000000-7-7');
    assertThat(sent().event_ts).isEqualTo(1790000000000);
- name: Cookies and Authorization of the visitor are never sent
  code: |-
    world.headers.authorization = 'Bearer VISITOR';
    world.headers.cookie = 'session=VISITOR';
    world.cookies.session = ['VISITOR'];
    world.event.Cookie = 'session=VISITOR';
    world.event.request = {headers: [{Authorization: 'Bearer VISITOR', accept: 'text/html'}]};
    runCode(settings);
    assertThat(world.body).doesNotContain('VISITOR');
    assertThat(sent().request).isEqualTo({headers: [{accept: 'text/html'}]});
    assertThat(world.options.headers).isEqualTo({
      'Content-Type': 'application/json', Authorization: 'Bearer a-write-key'
    });
- name: The event goes to the collector's door whether or not its address ends in a slash
  code: |-
    runCode(settings);
    assertThat(world.url).isEqualTo('https://collect.example.com/v1/events');
    settings.collectorUrl = 'https://collect.example.com/';
    runCode(settings);
    assertThat(world.url).isEqualTo('https://collect.example.com/v1/events');
- name: The visitor's browser is named where the event does not
  code: |-
    world.headers['user-agent'] = 'Browser/1';
    runCode(settings);
    assertThat(sent().user_agent).isEqualTo('Browser/1');
- name: The id cookie is relayed in both directions
  code: |-
    settings.relayIdCookie = true;
    world.cookies.hw_id = ['hw1.OLD'];
    world.answer.headers = {'x-headwater-id-cookie': 'hw1.NEW', 'x-headwater-id-cookie-max-age': '34128000'};
    runCode(settings);
    assertThat(world.options.headers['X-Headwater-Id-Cookie']).isEqualTo('hw1.OLD');
    assertThat(world.body).doesNotContain('hw1.OLD');
    assertApi('setCookie').wasCalledWith('hw_id', 'hw1.NEW', {
      domain: 'auto', path: '/', 'max-age': 34128000, secure: true, httpOnly: true, sameSite: 'lax'
    });
    assertApi('gtmOnSuccess').wasCalled();
- name: A visitor without the id cookie asks for one
  code: |-
    settings.relayIdCookie = true;
    runCode(settings);
    assertThat(world.options.headers['X-Headwater-Id-Cookie']).isEqualTo('');
    assertApi('setCookie').wasNotCalled();
- name: The id cookie is deleted where the collector says so
  code: |-
    settings.relayIdCookie = true;
    world.cookies.hw_id = ['hw1.OLD'];
    world.answer.headers = {'x-headwater-id-cookie': '', 'x-headwater-id-cookie-max-age': '0'};
    runCode(settings);
    assertApi('setCookie').wasCalledWith('hw_id', '', {
      domain: 'auto', path: '/', 'max-age': 0, secure: true, httpOnly: true, sameSite: 'lax'
    });
- name: Without the parameter the id cookie is neither sent nor set
  code: |-
    world.cookies.hw_id = ['hw1.OLD'];
    world.answer.headers = {'x-headwater-id-cookie': 'hw1.NEW', 'x-headwater-id-cookie-max-age': '34128000'};
    runCode(settings);
    assertThat(world.options.headers['X-Headwater-Id-Cookie']).isUndefined();
    assertApi('setCookie').wasNotCalled();
- name: An answer that is no success sets no id cookie
  code: |-
    settings.relayIdCookie = true;
    world.answer = {statusCode: 500, headers: {'x-headwater-id-cookie': 'hw1.NEW', 'x-headwater-id-cookie-max-age': '9'}};
    runCode(settings);
    assertApi('setCookie').wasNotCalled();
    assertApi('gtmOnFailure').wasCalled();
setup: |-
  const JSON = require('JSON');

  const settings = {collectorUrl: 'https://collect.example.com', writeKey: 'a-write-key', timeoutMs: 2000};

  // What the container is made to see, and what it sent.
  const world = {
    event: {event_name: 'page_view', client_id: 'c-1', page_location: 'https://shop.example/a', 'x-ga-page_id': 17},
    headers: {},
    cookies: {},
    answer: {statusCode: 200}
  };

  const sent = () => JSON.parse(world.body).events[0];

  mock('getAllEventData', () => world.event);
  mock('getRequestHeader', (name) => world.headers[name.toLowerCase()]);
  mock('getCookieValues', (name) => world.cookies[name] || []);
  mock('getTimestampMillis', () => 1790000000000);
  mock('generateRandom', () => 7);
  mock('logToConsole', () => undefined);
  mock('setCookie', () => undefined);
  mock('sendHttpRequest', (url, options, body) => {
    world.url = url;
    world.options = options;
    world.body = body;
    return {
      then: (answered, rejected) => {
        if (world.answer) answered(world.answer);
        else rejected({reason: 'timed_out'});
      }
    };
  });


___NOTES___

Headwater's tag for server containers. Import it under Templates > Tag Templates > New > Import.
