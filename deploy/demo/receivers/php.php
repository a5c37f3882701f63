<?php
// A third-party developer's endpoint in PHP: the guide's code, taken out of the guide unchanged, and around it what the
// guide leaves to the developer: the handlers. PHP runs this file anew for every request:
//
//   LOKROOM_WEBHOOK_SECRET=whsec_… php -S 127.0.0.1:3003 php.php
//
// One line a request on standard output.

$guide = file_get_contents(__DIR__ . '/../../../docs/guide/webhooks-guide.fr.md');
if (!preg_match('/^### PHP\n\n```php\n<\?php\n(.*?)^```$/ms', $guide, $block)) {
    http_response_code(500);
    die('the guide has no PHP block below "### PHP"');
}

function say($text) {
    file_put_contents('php://stdout', "php $text\n");
}

function handleBookingCreated($data) {
    say("handles booking {$data['id']}");
}

function handlePaymentSucceeded($data) {
    say("handles payment {$data['paymentIntentId']}");
}

register_shutdown_function(function () {
    $header = fn ($name) => $_SERVER["HTTP_X_LOK_$name"] ?? '-';
    say(http_response_code() . " {$header('EVENT')} {$header('EVENT_ID')} attempt {$header('ATTEMPT')}");
});

eval($block[1]);
